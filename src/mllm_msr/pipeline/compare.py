"""Several systems on the candidates of one run folder: `mllm-msr compare`.

Above the pipeline: it chooses which of its stages are needed for the models that are asked for.
The paper's ablations (section "Ablation Study") are runs of their own in `variants/`, which share
with the run all that comes before the difference; their scores are then judged beside the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import polars as pl

from mllm_msr import registry
from mllm_msr.config.loading import override
from mllm_msr.config.settings import Settings
from mllm_msr.errors import DataError, StaleStageError, UnknownNameError
from mllm_msr.pipeline.pipeline import STAGES, Pipeline
from mllm_msr.storage.run_folder import RunFolder

ZERO_SHOT: Final = "zero_shot"
MLLM_MSR: Final = "mllm_msr"


@dataclass(frozen=True, slots=True)
class Variant:
    """The system with something changed.

    Attributes:
        name: Name of its folder.
        overrides: What is changed, as `key=value`.
        shares: Stages that come before the change.
    """

    name: str
    overrides: tuple[str, ...]
    shares: tuple[str, ...]


DIRECT: Final = Variant("mllm_msr_direct", ("infer.method=direct",), ("prepare", "summarize"))
TEXT_ONLY: Final = Variant(
    "mllm_msr_text_only", ("infer.use_images=false",), ("prepare", "summarize")
)

ABLATIONS: Final[Mapping[str, Variant]] = MappingProxyType(
    {variant.name: variant for variant in (DIRECT, TEXT_ONLY)}
)


def known_models() -> list[str]:
    """All names that `compare` takes."""
    return [MLLM_MSR, ZERO_SHOT, *ABLATIONS, *registry.names("baselines")]


def compare(pipeline: Pipeline, models: Sequence[str]) -> dict[str, Any]:
    """Train, score and judge models on the run folder's candidates.

    What is done already is kept, whether by an earlier call or by `run`; the judgement then
    covers all models that have scored in the folder.

    Args:
        pipeline: The run.
        models: Names of `known_models()`.

    Returns:
        As `Pipeline.result`, with the metrics of the models asked for, in their order.

    Raises:
        UnknownNameError: A model does not exist.
        StaleStageError: A stage is done under other settings.
    """
    _refuse_unknown(models)
    pipeline = pipeline.under(_with_models(pipeline.settings, models))
    pipeline.run_stage("prepare")
    if {MLLM_MSR, ZERO_SHOT, *ABLATIONS} & set(models):
        pipeline.run_stage("summarize")
    if {MLLM_MSR, ZERO_SHOT} & set(models):
        pipeline.run_stage("infer")
    if MLLM_MSR in models:
        pipeline.run_stage("train")
    # Only these score now, whatever else the run's settings list.
    STAGES["score"](pipeline.under(_only(pipeline.settings, models)).workspace)
    for name in models:
        if name in ABLATIONS:
            with run_variant(pipeline, ABLATIONS[name]) as variant:
                adopt_scores(pipeline, name, variant.run)
    _judge(pipeline)
    result = pipeline.result()
    return {**result, "metrics": {name: result["metrics"][name] for name in models}}


def recommender(settings: Settings) -> str:
    """The name of a run's own recommender: the fine-tuned one, unless it is not to be tuned."""
    return MLLM_MSR if settings.train.enabled else ZERO_SHOT


@contextlib.contextmanager
def run_variant(pipeline: Pipeline, variant: Variant) -> Iterator[Pipeline]:
    """Do a variant's stages as far as its scores and hold its run folder.

    Args:
        pipeline: The run that it is a variant of.
        variant: What is different.

    Raises:
        StaleStageError: It is done under other settings.
    """
    tuned = recommender(pipeline.settings) == MLLM_MSR
    settings = override(
        pipeline.settings,
        [f"score.zero_shot={str(not tuned).lower()}", "score.baselines=[]", *variant.overrides],
    )
    with pipeline.fork(variant.name, settings, shares=variant.shares) as other:
        other.run_until("score")
        refuse_other_candidates(pipeline.run, other.run)
        yield other


def adopt_scores(pipeline: Pipeline, name: str, variant: RunFolder) -> None:
    """Keep a variant's scores in the run folder too, as those of the model `name`.

    Raises:
        StaleStageError: The scores kept there are others.
    """
    entry = variant.stages[f"score/{MLLM_MSR}"]
    made = {output: record["sha256"] for output, record in entry["outputs"].items()}
    with pipeline.workspace.stage(
        f"score/{name}", {"variant": made}, inputs=["candidates"], model=entry["model"]
    ) as stage:
        if stage.finished:
            return
        for kind in ("scores", "ranks", "top"):
            stage.write(f"{kind}/{name}", variant.read(f"{kind}/{MLLM_MSR}"))
        stage.count(**entry["counts"])


def refuse_other_candidates(run: RunFolder, variant: RunFolder) -> None:
    """Make sure that two runs are tested on the same rows.

    Raises:
        DataError: They are not.
    """
    tested, other = (
        folder.scan("candidates").filter(pl.col("split") == "test").drop("split").collect()
        for folder in (run, variant)
    )
    same = tested.sort(tested.columns).equals(other.sort(tested.columns))
    if not same:
        raise DataError(
            needed="a variant that is tested on the candidates of its run",
            received=f"{variant.folder} with others ({other.height} rows for {tested.height})",
            remedy="change nothing that decides about test users, items or negatives",
        )


def _refuse_unknown(models: Sequence[str]) -> None:
    unknown = [name for name in models if name not in known_models()]
    if unknown or not models:
        raise UnknownNameError(
            needed=f"models out of {', '.join(known_models())}",
            received=", ".join(unknown) or "none",
            remedy="name at least one of them, separated by commas",
        )


def _with_models(settings: Settings, models: Sequence[str]) -> Settings:
    """The run's own settings, widened by the models."""
    baselines = [*settings.score.baselines, *_baselines(models)]
    changes = [f"score.baselines=[{', '.join(dict.fromkeys(baselines))}]"]
    changes += ["train.enabled=true"] if {MLLM_MSR, *ABLATIONS} & set(models) else []
    changes += ["score.zero_shot=true"] if ZERO_SHOT in models else []
    return override(settings, changes)


def _only(settings: Settings, models: Sequence[str]) -> Settings:
    """The settings under which the stage "score" does these models alone."""
    changes = {
        "score.baselines": f"[{', '.join(_baselines(models))}]",
        "train.enabled": str(MLLM_MSR in models).lower(),
        "score.zero_shot": str(ZERO_SHOT in models).lower(),
    }
    return override(settings, [f"{key}={value}" for key, value in changes.items()])


def _baselines(models: Sequence[str]) -> list[str]:
    return [name for name in models if name not in {MLLM_MSR, ZERO_SHOT, *ABLATIONS}]


def _judge(pipeline: Pipeline) -> None:
    """Evaluate and report anew where models have come since; what was judged is only derived."""
    for name in ("evaluate", "report"):
        try:
            pipeline.run_stage(name)
        except StaleStageError:
            pipeline.under(pipeline.settings, force=True).run_stage(name)
