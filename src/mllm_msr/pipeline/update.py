"""Update of a finished run: read new interactions and write them and the changed preferences."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from mllm_msr import registry
from mllm_msr.config.settings import Settings
from mllm_msr.data.data_report import counted
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.backends import open_cached
from mllm_msr.pipeline.context import RunContext, changed
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.stage_settings import NOT_RECORDED
from mllm_msr.pipeline.stages import infer as infer_stage
from mllm_msr.pipeline.stages import update as update_stage
from mllm_msr.storage import atomic, layout

logger = logging.getLogger(__name__)


def update(context: RunContext, settings: Settings, file: Path | str) -> dict[str, int]:
    """Add new interactions and update the preferences of their users.

    Args:
        context: A run whose stage "infer" is finished.
        settings: The run's settings: the file is read as the run's dataset was.
        file: A later export of the dataset's interactions. Rows that the run already contains are
            ignored, so that a repeated call changes nothing.

    Returns:
        Numbers of interactions and users, see `stages.update.Update`, and model usage.

    Raises:
        DataError: The file cannot be read, contains no known item, or contains interactions that
            are older than the histories.
    """
    tables, section = RunTables(context.run), settings.infer
    plan = _plan(tables, settings, Path(file))
    if plan.histories.is_empty():
        return plan.counts
    number = tables.n_updates() + 1
    conditions = changed(section, exclude=NOT_RECORDED["infer"])
    conditions["file"] = atomic.content_hash(Path(file))[0]
    if not section.enabled:
        return _write_interactions(context, plan, number, conditions)
    model = section.model or aligned(settings, context.run)
    with (
        contextlib.closing(open_cached(model, context.run.cache, settings.executor)) as backend,
        context.stage(
            f"update/{number}",
            conditions,
            inputs=[layout.SUMMARIES, layout.ITEMS, *tables.current_names()],
            prompt_templates=infer_stage.TEMPLATES,
            item_type=(item_type := tables.item_type(settings)),
            model=backend.fingerprint,
        ) as stage,
    ):
        preferences, _ = infer_stage.infer(
            plan.histories,
            tables.summaries(),
            backend,
            section,
            item_type=item_type,
            every_block=True,
            previous=update_stage.reusable_preferences(
                tables.current(layout.PREFERENCES), plan.n_unchanged
            ),
        )
        stage.write(f"{layout.UPDATES}/{number}/interactions", plan.histories)
        stage.write(f"{layout.UPDATES}/{number}/preferences", preferences)
        counts = {**plan.counts, **backend.usage()}
        stage.count(**counts)
    return counts


def _write_interactions(
    context: RunContext, plan: update_stage.Update, number: int, conditions: dict[str, object]
) -> dict[str, int]:
    """Finish an update of a run without preferences."""
    tables = RunTables(context.run)
    inputs = [layout.ITEMS, layout.INTERACTIONS, *tables.updates(layout.INTERACTIONS)]
    with context.stage(f"update/{number}", conditions, inputs=inputs) as stage:
        stage.write(f"{layout.UPDATES}/{number}/interactions", plan.histories)
        stage.count(**plan.counts)
    return plan.counts


def _plan(tables: RunTables, settings: Settings, file: Path) -> update_stage.Update:
    """Read the new interactions and append them to the histories."""
    dataset = registry.find_dataset(settings.dataset)(**settings.data.plugin_kwargs())
    plan = update_stage.plan_update(
        tables.current(layout.INTERACTIONS),
        update_stage.read_new_interactions(dataset, file),
        tables.items(),
        duplicates=settings.data.duplicates,
        is_sample=settings.data.max_users is not None,
    )
    if plan.unknown_items:
        logger.warning(
            "%s has %s that the run does not contain, for example %s.",
            file.name,
            counted(len(plan.unknown_items), "item"),
            " and ".join(map(repr, plan.unknown_items[:2])),
        )
    return plan
