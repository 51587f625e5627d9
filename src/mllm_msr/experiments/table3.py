"""Table 3, "Performance Analysis": all systems on the same candidates, over folds and seeds.

The folds are those of the run (`data.run_folds`). Systems that the paper does not contain
(popularity, neighborhood models, the hybrid) follow those that it contains.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from mllm_msr import registry
from mllm_msr.baselines._factory import baseline_class
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.report import paper_results
from mllm_msr.experiments._experiment import (
    Experiment,
    System,
    SystemScores,
    last_stage,
    required_models,
    score_models,
    select_models,
)
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.recommenders import label_of, ranker_name
from mllm_msr.ranker.recommender import MLLM_MSR, ZERO_SHOT

# Baselines of the paper, in its order.
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


def list_systems(settings: Settings) -> Sequence[System]:
    """Return MLLM-MSR, the baselines of the paper in its order, and all other baselines."""
    # A run without fine-tuning does not fine-tune TALLRec either.
    excluded = set() if settings.train.enabled else {"tallrec"}
    known = [name for name in registry.names("baselines") if name not in excluded]
    in_paper = [name for name in _PAPER if name in known]
    others = [name for name in known if name not in _PAPER]
    own = [MLLM_MSR, ZERO_SHOT] if ranker_name(settings) == MLLM_MSR else [ZERO_SHOT]
    return tuple(System(name, label_of(name), model=name) for name in (*own, *in_paper, *others))


def score_all(pipeline: Pipeline, systems: Sequence[System]) -> Mapping[str, SystemScores]:
    """Score all systems in a variant, so that the evaluation of the run itself stays unchanged."""
    settings = pipeline.settings
    models = {system.name: system.model or system.name for system in systems}
    required = required_models(settings, list(models.values()))
    baselines = [name for name in required if name not in {MLLM_MSR, ZERO_SHOT}]
    changes = [*select_models(required), *_baseline_arguments(settings, baselines)]
    pipeline.run_until(last_stage(settings, required))
    shares = ("prepare", "summarize", "infer", "train", "score")
    with pipeline.fork("table3", override(settings, changes), shares=shares) as variant:
        found = score_models(variant, list(models.values()))
    return {name: found[model] for name, model in models.items()}


def _baseline_arguments(settings: Settings, baselines: Sequence[str]) -> list[str]:
    """Return overrides that pass the run's seed to baselines, and its model to MLLM baselines."""
    changes = []
    for name in baselines:
        arguments: dict[str, object] = {}
        if settings.train.seed:  # 0 is the default of every baseline
            arguments["seed"] = settings.train.seed
        if "backend" in inspect.signature(baseline_class(name)).parameters:
            arguments["backend"] = settings.model.backend
            arguments["options"] = settings.model.plugin_kwargs()
        own = settings.baselines.arguments(name)
        changes += [
            f"baselines.{name}.{key}={json.dumps(value)}"
            for key, value in arguments.items()
            if key not in own
        ]
    return changes


EXPERIMENT = Experiment(
    name="table3",
    title="All systems on the same candidates",
    claim="MLLM-MSR is better than all other systems on all three datasets. In percent:",
    systems=list_systems,
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
    score=score_all,
)
