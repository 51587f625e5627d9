"""Costs and warnings of a run, as plain records for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from mllm_msr.evaluation.aggregation import model_of

# Count of the stage "score": folds in which a time limit ended the training of a baseline.
TIME_LIMITED: Final = "stopped_by_time_limit"

# Steps that begin the warnings of summaries, and warnings whose name is not a description.
_STEPS: Final = {"text": "text summary", "image": "image summary", "fusion": "combined summary"}
_WARNINGS: Final = {
    "cut": "truncated",
    "garbage": "noise",
    "incomplete": "not all images of the item can be opened",
    "language": "another language",
    "nothing_to_read": "item without text and image",
    "retried": "second or third attempt used",
    "failed": "no usable answer",
}

_MODEL_COUNTS: Final = ("prompt_tokens", "output_tokens", "hits", "misses")


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one stage.

    Attributes:
        stage: Name of the stage.
        seconds: Wall-clock time.
        calls: Model calls; None for stages without a model.
        prompt_tokens: Input tokens of the model calls.
        output_tokens: Generated tokens.
        cached: Share of the responses that came from the response cache.
        details: All other counts of the stage, by name.
    """

    stage: str
    seconds: float
    calls: int | None
    prompt_tokens: int | None
    output_tokens: int | None
    cached: float | None
    details: tuple[tuple[str, float], ...]


def costs(stages: Mapping[str, Any]) -> list[Cost]:
    """Return the cost of each finished stage, in the order of the manifest.

    Args:
        stages: Entries of the manifest by stage, with `seconds` and `counts`.
    """
    found = []
    for stage, entry in stages.items():
        counts = entry.get("counts", {})
        calls, prompt_tokens, output_tokens = (
            None if counts.get(name) is None else int(counts[name])
            for name in ("misses", "prompt_tokens", "output_tokens")
        )
        hits = counts.get("hits")
        n_responses = (hits or 0) + (calls or 0)
        found.append(
            Cost(
                stage=stage,
                seconds=float(entry.get("seconds", 0.0)),
                calls=calls,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                cached=hits / n_responses if hits is not None and n_responses else None,
                details=tuple(
                    (name, value) for name, value in counts.items() if name not in _MODEL_COUNTS
                ),
            )
        )
    return found


def hardware(stages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the stages that each kind of hardware ran, in the order of the manifest.

    The parts of a stage, such as its folds, count as one.

    Args:
        stages: Entries of the manifest by stage; those without a record are left out.
    """
    found: dict[str, list[str]] = {}
    for stage, entry in stages.items():
        if "hardware" in entry:
            found.setdefault(entry["hardware"], []).append(stage.partition("/")[0])
    return {kind: list(dict.fromkeys(names)) for kind, names in found.items()}


def time_limit_notes(stages: Mapping[str, Any]) -> dict[str, str]:
    """Return a note for each model whose training a time limit ended, by the model's name.

    Args:
        stages: Entries of the manifest by stage, with `counts`.
    """
    n_folds: dict[str, int] = {}
    for stage, entry in stages.items():
        kind, _, run = stage.partition("/")
        if kind == "score" and (n := entry.get("counts", {}).get(TIME_LIMITED)):
            n_folds[model_of(run)] = n_folds.get(model_of(run), 0) + int(n)
    return {
        model: (
            f"training was stopped by a time limit (max_minutes) {n} time{'s' * (n > 1)}, so the "
            "result depends on the speed of the machine"
        )
        for model, n in n_folds.items()
    }


def warning_counts(
    summaries: pl.DataFrame | None, preferences: pl.DataFrame | None
) -> list[tuple[str, str, int, float]]:
    """Count the images by status and the generated texts by warning.

    Args:
        summaries: `tables.SUMMARIES`, if there are any.
        preferences: `tables.PREFERENCES`, if there are any.

    Returns:
        Rows (table, status or warning, number of rows, share of the table's rows).
    """
    rows: list[tuple[str, str, int, float]] = []
    if summaries is not None and summaries.height:
        counts = summaries["image_status"].fill_null("missing").value_counts(sort=True)
        rows += [
            ("images", status, count, count / summaries.height)
            for status, count in counts.iter_rows()
        ]
    for name, frame in (("summaries", summaries), ("preferences", preferences)):
        if frame is None or not frame.height:
            continue
        flags = frame["flags"].fill_null("").str.split(",").explode(empty_as_null=True)
        counts = flags.filter(flags.fill_null("") != "").value_counts(sort=True)
        none = int((frame["flags"].fill_null("") == "").sum())
        rows.append((name, "no warning", none, none / frame.height))
        rows += [(name, flag, count, count / frame.height) for flag, count in counts.iter_rows()]
    return rows


def count_words(name: str) -> str:
    """Return the name of a count in words; texts with a warning are counted by its name.

    >>> count_words("fusion_failed"), count_words("image_ok")
    ('combined summary: no usable answer', 'image ok')
    """
    # Counts of images begin like the warnings of image summaries.
    return warning_words(name) if name.startswith(("fusion_", "text_")) else name.replace("_", " ")


def warning_words(warning: str) -> str:
    """Return a warning or the status of an image in words.

    >>> warning_words("fusion_repetition_loop"), warning_words("retried"), warning_words("ok")
    ('combined summary: repetition loop', 'second or third attempt used', 'ok')
    """
    step, _, rest = warning.partition("_")
    prefix, name = (f"{_STEPS[step]}: ", rest) if step in _STEPS and rest else ("", warning)
    return prefix + _WARNINGS.get(name, name.replace("_", " "))
