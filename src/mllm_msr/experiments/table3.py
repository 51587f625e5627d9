"""Table 3, "Performance Analysis": all systems on the same candidates, over folds and seeds.

The folds are those of the run (`data.run_folds`), the seeds those asked for. Systems that the
paper does not have (counts, neighbours, the hybrid) stand below those that it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from mllm_msr import registry
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.report import paper_results
from mllm_msr.evaluation.report.tables import label
from mllm_msr.experiments._common import Experiment, Measured, Row, measured
from mllm_msr.pipeline.compare import MLLM_MSR, ZERO_SHOT, recommender
from mllm_msr.pipeline.pipeline import Pipeline

# Those of the paper, in its order.
_PAPER: Final = (
    "gru4rec",
    "sasrec",
    "mgat",
    "mmgcn",
    "gru4rec_f",
    "sasrec_f",
    "mmsr",
    "trans2d",
    "llava_zero_shot",
    "tallrec",
)
# Baselines that ask a model; they get the run's.
_ASKING: Final = ("llava_zero_shot", "tallrec")


def _rows(settings: Settings) -> Sequence[Row]:
    # TALLRec is fine-tuned as the recommender is.
    left_out = set() if settings.train.enabled else {"tallrec"}
    known = [name for name in registry.names("baselines") if name not in left_out]
    baselines = [name for name in _PAPER if name in known]
    others = [name for name in known if name not in _PAPER]
    main = recommender(settings)
    own = [main] if main == ZERO_SHOT else [main, ZERO_SHOT]
    return tuple(Row(name, label(name), model=name) for name in (*own, *baselines, *others))


def _measure(pipeline: Pipeline, rows: Sequence[Row]) -> Mapping[str, Measured]:
    """All models in one run folder beside the run, so that its own judgement stays as it is."""
    models = [row.model or row.name for row in rows]
    baselines = [name for name in models if name not in {MLLM_MSR, ZERO_SHOT}]
    changes = [f"score.baselines=[{', '.join(baselines)}]", "score.zero_shot=true"]
    changes += _arguments(pipeline.settings, baselines)
    pipeline.run_until("train")
    shares = ("prepare", "summarize", "infer", "train", "validation", "score")
    with pipeline.fork("table3", override(pipeline.settings, changes), shares=shares) as run:
        run.run_until("score")
        return {row.name: measured(run.run, row.model or row.name) for row in rows}


def _arguments(settings: Settings, baselines: Sequence[str]) -> list[str]:
    """Each baseline starts from the run's seed, and those that ask a model ask the run's."""
    changes = []
    for name in baselines:
        given: dict[str, object] = {"seed": settings.train.seed} if settings.train.seed else {}
        if name in _ASKING:
            given["backend"] = settings.model.backend
            given["options"] = settings.model.plugin_kwargs()
        changes += [
            f"baselines.{name}.{key}={json.dumps(value)}"
            for key, value in given.items()
            if key not in settings.baselines.arguments(name)
        ]
    return changes


EXPERIMENT = Experiment(
    name="table3",
    title="All systems on the same candidates",
    claim="MLLM-MSR stands above all other systems on all three data sets. In hundredths:",
    rows=_rows,
    reference=MappingProxyType(
        {
            dataset: {
                system: dict(zip(paper_results.METRICS, values, strict=True))
                for system, values in systems.items()
            }
            for dataset, systems in paper_results.TABLE_3.items()
        }
    ),
    caveats=paper_results.CAVEATS[1:],
    measure=_measure,
)
