"""Sentences about what a stage did, from the counts in the manifest, and what `prepare` read."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mllm_msr.cli._logging import is_quiet
from mllm_msr.cli._output import unbroken
from mllm_msr.cli._results import display_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.pipeline.pipeline import Pipeline

Counts = Mapping[str, Any]

# Phrases such as "a preference for" may occur twice in good texts.
_MIN_REPETITION: Final = 0.05


def stage_text(pipeline: Pipeline, stage: str) -> RenderableType:
    """Return sentences about a finished stage, and the next command.

    Args:
        pipeline: The run.
        stage: Name of the stage.
    """
    from rich.console import Group
    from rich.text import Text

    entries = pipeline.counts(stage)
    lines = [describe_entry(name, counts) for name, counts in entries.items()]
    if not entries:
        lines = [f"The stage {stage} is switched off in the settings of this run."]
    folder = display_path(pipeline.run.folder)
    command = next_command(stage)
    step = f"Next    {shlex.join(['mllm-msr', *command.split(), '--run', folder])}"
    return Group(*map(Text, lines), unbroken([step]))


def next_command(stage: str) -> str:
    """Return the command of the stage after another one; `serve` after the last."""
    from mllm_msr.pipeline.pipeline import STAGES

    if stage == "distill":
        return "compare --models student"
    # No stage leads to these two: they are optional.
    names = [name for name in [*STAGES, "serve"] if name not in {"align", "distill"} - {stage}]
    return names[names.index(stage) + 1]


def describe_entry(name: str, counts: Counts, *, timed: bool = True) -> str:
    """Return one sentence about an entry of the manifest.

    Args:
        name: Name of the entry ("summarize", "score/popularity").
        counts: Its counts, with `seconds` and `outputs`.
        timed: Whether to add its time.
    """
    from mllm_msr.pipeline.context import format_seconds

    stage, _, part = name.partition("/")
    done = _SENTENCES[stage](counts, part) if stage in _SENTENCES else f"Finished {name}"
    parts = [done, *_warnings(counts), *_calls(counts)]
    time = f" ({format_seconds(counts['seconds'])})" if timed else ""
    return f"{'; '.join(parts)}{time}."


def _describe_prepare(counts: Counts, _: str) -> str:
    return (
        f"Prepared {_n(counts, 'interactions')} interactions of {_n(counts, 'users')} users with "
        f"{_n(counts, 'items')} items"
    )


def _describe_alignment(counts: Counts, _: str) -> str:
    return (
        f"Aligned {_n(counts, 'images')} images with their texts in {_n(counts, 'steps')} steps, "
        f"loss {counts['first_loss']:.2f} to {counts['last_loss']:.2f}"
    )


def _describe_training(counts: Counts, fold: str) -> str:
    text = f"Fine-tuned fold {fold} with {_n(counts, 'examples')} examples in "
    text += f"{_n(counts, 'steps')} steps"
    if counts.get("best_auc") is not None:
        text += f", best validation AUC {counts['best_auc']:.3f} at step {_n(counts, 'best_step')}"
    return text


def _describe_distillation(counts: Counts, fold: str) -> str:
    return (
        f"Scored {_n(counts, 'pairs')} pairs of {_n(counts, 'users')} training users of fold "
        f"{fold} with the MLLM for the student"
    )


def _describe_scores(counts: Counts, model: str) -> str:
    text = f"Scored {_n(counts, 'scores')} candidates with {model}"
    full = counts.get("full_users", 0)
    return f"{text}, and the full catalog for {full:,} users" if full else text


def _describe_report(counts: Counts, _: str) -> str:
    return f"Wrote {' and '.join(counts['outputs'])}"


_SENTENCES: Final[Mapping[str, Callable[[Counts, str], str]]] = MappingProxyType(
    {
        "prepare": _describe_prepare,
        "align": _describe_alignment,
        "summarize": lambda counts, _: f"Summarized {_n(counts, 'items')} items",
        "infer": lambda counts, _: (
            f"Inferred {_n(counts, 'blocks')} preferences of {_n(counts, 'users')} users"
        ),
        "train": _describe_training,
        "distill": _describe_distillation,
        "score": _describe_scores,
        "evaluate": lambda counts, _: f"Evaluated {_n(counts, 'models')} models",
        "report": _describe_report,
        "fit-lists": lambda counts, fold: (
            f"Fitted the lists of fold {fold} on {_n(counts, 'users')} validation users"
        ),
    }
)


def _warnings(counts: Counts) -> Iterator[str]:
    """Yield what the user should know about the outputs."""
    if n := counts.get("flagged", 0):
        yield f"{n:,} with a warning"
    if n := counts.get("failed", 0):
        yield f"{n:,} without a score"
    if n := counts.get("without_image", 0):
        yield f"{n:,} without an image"
    if (n := counts.get("items", 0) - counts.get("image_ok", 0)) and "image_ok" in counts:
        yield f"{n:,} without a usable image"
    if "source_coverage" in counts:
        yield f"source coverage {counts['source_coverage']:.1%}"
    if (share := counts.get("repetition", 0.0)) >= _MIN_REPETITION:
        yield f"repetition {share:.1%}"


def _calls(counts: Counts) -> Iterator[str]:
    """Yield the model calls and tokens, if the stage called a model."""
    if "misses" not in counts:
        return
    calls = f"{_n(counts, 'misses')} model calls"
    cached = f", {_n(counts, 'hits')} from the cache" if counts.get("hits") else ""
    yield f"{calls}{cached}"
    yield f"{_n(counts, 'prompt_tokens')} input and {_n(counts, 'output_tokens')} output tokens"


def _n(counts: Counts, name: str) -> str:
    return f"{int(counts.get(name, 0)):,}"


def data_text(pipeline: Pipeline) -> str:
    """Return what the stage `prepare` understood of the dataset, as text.

    Warnings that this command has already shown are left out.
    """
    from mllm_msr.data.source_text import format_report
    from mllm_msr.storage.layout import DATA_REPORT

    report = pipeline.tables.data_report()
    if report is None:
        return "This run has no report about its data."
    if DATA_REPORT in pipeline.run.announced and not is_quiet():
        report = {**report, "warnings": []}
    return format_report(report)
