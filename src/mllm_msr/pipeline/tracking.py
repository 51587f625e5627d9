"""Metrics of finished stages in the trackers of `train.loggers`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mllm_msr.config.settings import Settings
from mllm_msr.ranker.training.trackers import make_trackers
from mllm_msr.storage import layout
from mllm_msr.storage.manifest import Entry
from mllm_msr.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


def track_stages(run: RunFolder, settings: Settings, before: Mapping[str, Entry]) -> None:
    """Write the counts, seconds and metrics of the stages that have finished.

    A tracker that fails is only logged, because the stage is finished.

    Args:
        run: The run folder.
        settings: The run's settings.
        before: The stages that were finished before.
    """
    names = settings.train.loggers
    new = {name: entry for name, entry in run.stages.items() if before.get(name) != entry}
    if not names or not new:
        return
    values = dict(stage_values(new))
    if "evaluate" in new:
        values |= metric_values(run.read_json(layout.METRICS))
    for name in names:
        try:
            (tracker,) = make_trackers([name], run.folder, run=run.folder.name)
            tracker.log_metrics(values)
            tracker.save()
            tracker.finalize("success")
        except Exception as error:  # noqa: BLE001 - trackers raise errors of their own
            logger.warning("The tracker %s did not accept the metrics: %s", name, error)


def stage_values(stages: Mapping[str, Entry]) -> Iterator[tuple[str, float]]:
    """Yield the finite counts and the seconds of stages, as in "summarize/prompt_tokens"."""
    for name, entry in stages.items():
        for count, value in {**entry["counts"], "seconds": entry["seconds"]}.items():
            if math.isfinite(value):
                yield f"{name}/{count}", float(value)


def metric_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return means and ends of intervals, as in "mllm_msr/uniform/auc" and ".../auc/low".

    Args:
        metrics: `{model: {negatives: {metric: {mean, low, high, n}}}}`.
    """
    values: dict[str, float] = {}
    for model, kinds in metrics.items():
        for kind, found in kinds.items():
            for name, cell in found.items():
                shown = {"": cell["mean"], "/low": cell.get("low"), "/high": cell.get("high")}
                values |= {
                    f"{model}/{kind}/{name}{end}": float(value)
                    for end, value in shown.items()
                    if value is not None and math.isfinite(value)
                }
    return values
