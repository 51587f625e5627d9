"""Steps that compare the device with the CPU: scores, rankings and texts of the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks._workload import ITEM_TYPE, N_CANDIDATES, Workload
from benchmarks.gpu_check._step import Check, Record, require
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.summarization.items import summarize
from mllm_msr.summarization.preferences import infer_preferences
from mllm_msr.types import Precision, Prompt

# Largest difference of log-probabilities in float32. On a GPU, convolutions use TF32.
_TOLERANCE: Final = {"cpu": 1e-4, "cuda": 1e-2}
# Bfloat16 on the device may be this many times as far from float32 as bfloat16 on the CPU.
_FACTOR: Final = 2.0
_SMALLEST_TOLERANCE: Final = 0.02
_EQUAL_TEXTS: Final = 0.9
_LISTS: Final = 2
_ITEMS: Final = 4
_NEW_TOKENS: Final = 8
_REFERENCE: Final = "cpu float32"
_DTYPES: Final[tuple[Precision, Precision]] = ("float32", "bfloat16")

# Log-probabilities of the choices, for each prompt.
Scores = Sequence[Sequence[float]]


def compare_demo(check: Check, record: Record) -> None:
    """Compare scores, summaries and preferences of the demo model."""
    _compare(check, record, weights_folder(), _write_stages)


def compare_shape(check: Check, record: Record) -> None:
    """Compare scores and answers of the random model."""
    _compare(check, record, check.checkpoint(), _write_answers)


def score(backend: Backend, prompts: Sequence[Prompt]) -> Scores:
    """Return the log-probabilities of the choices.

    Raises:
        CheckFailedError: A prompt failed.
    """
    found = dict(backend.score(prompts, CHOICES))
    errors = [one.error for one in found.values() if one.error]
    require(not errors, f"{len(errors)} prompts failed: {errors[:1]}")
    return [list(found[index].log_probs) for index in range(len(prompts))]


def largest_difference(first: Scores, second: Scores) -> float:
    """Return the largest difference of two lists of log-probabilities."""
    rows = zip(first, second, strict=True)
    return max(abs(a - b) for one, other in rows for a, b in zip(one, other, strict=True))


def share_of_equal_order(first: Scores, second: Scores, *, size: int) -> float:
    """Return the share of pairs of candidates of a list that two rankings order alike.

    Args:
        first: Log-probabilities of yes and no, list after list.
        second: The same of another implementation.
        size: Number of candidates of a list.
    """
    margins = [[yes - no for yes, no in scores] for scores in (first, second)]
    equal = [
        (margins[0][a] > margins[0][b]) == (margins[1][a] > margins[1][b])
        for start in range(0, len(first), size)
        for a, b in itertools.combinations(range(start, start + size), 2)
    ]
    return fmean(equal)


def order_is_kept(first: Scores, second: Scores, *, size: int, tolerance: float) -> bool:
    """Return whether two rankings agree, except for candidates that are nearly tied.

    Args:
        first: Log-probabilities of yes and no, list after list.
        second: The same of another implementation.
        size: Number of candidates of a list.
        tolerance: Largest margin between candidates that are nearly tied.
    """
    for start in range(0, len(first), size):
        ours, theirs = (
            [yes - no for yes, no in scores[start : start + size]] for scores in (first, second)
        )
        for a, b in itertools.permutations(range(size), 2):
            if ours[a] > ours[b] + tolerance and theirs[a] < theirs[b]:
                return False
    return True


def _compare(
    check: Check,
    record: Record,
    checkpoint: Path,
    write: Callable[[Workload, Backend], Sequence[str]],
) -> None:
    """Compare the device with the CPU in float32 and bfloat16.

    Args:
        check: Options of the check.
        record: Gets the largest differences, shares of equal order, and shares of equal texts.
        checkpoint: Weights.
        write: Writes texts with a backend.

    Raises:
        CheckFailedError: The device differs by more than the tolerance, or ranks differently.
    """
    workload = check.workload()
    prompts = [one.prompt for one in workload.candidate_lists(1 if check.is_small else _LISTS)]
    scores: dict[str, Scores] = {}
    texts: dict[str, Sequence[str]] = {}
    device: str
    dtype: Precision
    for device, dtype in itertools.product(("cpu", check.device), _DTYPES):
        name = f"{device} {dtype}"
        if name in scores:
            continue
        backend = HuggingFaceBackend(
            str(checkpoint), dtype=dtype, device=device, batch_size=16, speculative_tokens=0
        )
        with closing(backend):
            scores[name] = score(backend, prompts)
            texts[name] = write(workload, backend)
        check.free_gpu()
        record.add(**_differences(scores, texts))
    record.add(reference=scores[_REFERENCE])
    tolerance = _TOLERANCE[check.device]
    rounding = largest_difference(scores["cpu bfloat16"], scores[_REFERENCE])
    tolerances = {
        "float32": tolerance,
        "bfloat16": max(_FACTOR * rounding, _SMALLEST_TOLERANCE),
    }
    for kind, allowed in tolerances.items():
        name = f"{check.device} {kind}"
        found = largest_difference(scores[name], scores[_REFERENCE])
        require(
            found <= allowed,
            f"Log-probabilities of {name} differ by {found:.2g} from those of {_REFERENCE}, "
            f"more than {allowed:.2g}.",
        )
        require(
            order_is_kept(
                scores[_REFERENCE], scores[name], size=N_CANDIDATES, tolerance=2 * allowed
            ),
            f"{name} ranks candidates in another order than {_REFERENCE}.",
        )
    equal = _share_of_equal(texts[f"{check.device} float32"], texts[_REFERENCE])
    require(
        equal >= _EQUAL_TEXTS,
        f"Only {equal:.0%} of the texts of {check.device} float32 are those of {_REFERENCE}.",
    )


def _write_stages(workload: Workload, backend: Backend) -> list[str]:
    """Return summaries of some items and preferences of some users."""
    summaries = summarize(workload.items[:_ITEMS], backend, item_type=ITEM_TYPE)
    histories = workload.histories(_ITEMS)
    preferences = infer_preferences(histories, workload.summaries(), backend, item_type=ITEM_TYPE)
    return [*summaries["summary"], *preferences["preference"]]


def _write_answers(workload: Workload, backend: Backend) -> list[str]:
    """Return short answers to prompts with images, as a random model writes them."""
    examples = workload.candidate_lists(1)[: 2 * _ITEMS]
    prompts = [replace(example.prompt, max_new_tokens=_NEW_TOKENS) for example in examples]
    answers = dict(backend.generate(prompts))
    return [answers[index].error or answers[index].text for index in range(len(prompts))]


def _differences(
    scores: Mapping[str, Scores], texts: Mapping[str, Sequence[str]]
) -> dict[str, Mapping[str, float]]:
    """Return how each implementation differs from the reference."""
    reference = scores[_REFERENCE]
    others = [name for name in scores if name != _REFERENCE]
    return {
        "largest_difference": {n: largest_difference(scores[n], reference) for n in others},
        "share_of_equal_order": {
            n: round(share_of_equal_order(scores[n], reference, size=N_CANDIDATES), 4)
            for n in others
        },
        "share_of_equal_texts": {n: _share_of_equal(texts[n], texts[_REFERENCE]) for n in others},
    }


def _share_of_equal(first: Sequence[str], second: Sequence[str]) -> float:
    return round(fmean(a == b for a, b in zip(first, second, strict=True)), 4)
