"""Comparison of engines that need no GPU on the same prompts, and the overhead of Ray.

All engines run the demo model in float32 without a response cache: in this process with the
backends `demo` and `huggingface`, in `transformers serve` and vLLM's server with the backend
`openai`, and in Ray workers. They run at the same time and are called alternately, so that other
load on the machine affects all of them.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import polars as pl
import torch
import transformers

from benchmarks._engines import Engine, huggingface, in_process, ray, transformers_serve, vllm
from benchmarks._measure import process_tree_seconds, round_digits
from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import InferSettings
from mllm_msr.errors import DataError, UsageError
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.ranker.examples import CHOICES, build_examples
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.summarization.preferences import OPENING, infer_preferences
from mllm_msr.types import ChoiceScores, Completion, Prompt

REFERENCE: Final = "in_process"

# An answer that passes the checks of the stage, so that no prompt is repeated.
_ACCEPTED_ANSWER: Final = f"{OPENING} calm things that show boats."

Response = Completion | ChoiceScores


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts of the benchmark.

    Attributes:
        preferences: Text prompts that ask for a user's preference.
        recommend: Prompts with images that ask whether a candidate is the next item, ordered by
            item.
        users: User of each prompt in `recommend`.
    """

    preferences: Sequence[Prompt]
    recommend: Sequence[Prompt]
    users: Sequence[str]

    @property
    def kinds(self) -> Mapping[str, Sequence[Prompt]]:
        """Return the prompts of each kind of work.

        The kinds are generated texts, one-word answers, and scores of two choices.
        """
        return {
            "preferences": self.preferences,
            "answers": self.recommend,
            "scores": self.recommend,
        }


def run(
    *,
    folder: str = "runs/demo",
    prompts: int = 64,
    repeats: int = 3,
    threads: int = 1,
    workers: int = 2,
    batch: int = 16,
    clients: int = 2,
    engines: str = "all",
) -> dict[str, Any]:
    """Measure engines with the prompts of a run.

    Args:
        folder: A run folder with finished preferences; it is only read.
        prompts: Number of prompts of each kind: blocks of histories, and candidates of test users.
        repeats: Number of timed repeats after a warm-up; medians over them are returned.
        threads: Number of threads of each engine and of each Ray worker. On a machine with other
            load, several threads wait for each other, which makes times unreliable.
        workers: Number of Ray workers; a single worker is also measured, for the overhead of Ray.
        batch: Number of prompts that a Ray worker receives at a time.
        clients: Number of concurrent requests to `transformers serve`, which processes them one
            by one. vLLM's server, which batches requests, gets `batch`.
        engines: Names of the engines to measure in addition to `in_process`, separated by commas.

    Returns:
        The result of `measure`, the settings, and the load average before and after; if it exceeds
        the number of cores, times are unreliable.

    Raises:
        UsageError: An engine does not exist.
        DataError: The run has no test candidates.
    """
    load = os.getloadavg()[0]
    selected = _select(engines, threads=threads, workers=workers, batch=batch, clients=clients)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    given = read_prompts(Path(folder), prompts)
    found = measure(given, selected, repeats=repeats)
    return {
        "dtype": "float32",
        "prompts": {"preferences": len(given.preferences), "recommend": len(given.recommend)},
        "images": len({image for prompt in given.recommend for image in prompt.images}),
        "repeats": repeats,
        "threads": threads,
        "batch": batch,
        "clients": clients,
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "engines": found,
    }


def _select(names: str, *, threads: int, workers: int, batch: int, clients: int) -> list[Engine]:
    """Return the reference engine and the engines with the given names."""
    part = functools.partial
    engines = [
        Engine(REFERENCE, part(in_process, threads)),
        Engine("huggingface", part(huggingface, threads)),
        Engine("openai_transformers_serve", part(transformers_serve, threads, clients=clients)),
        Engine("openai_vllm", part(vllm, threads, clients=batch)),
        *(
            Engine(f"ray_{n}", part(ray, threads, workers=n, batch=batch))
            for n in sorted({1, workers})
        ),
    ]
    known = [engine.name for engine in engines]
    wanted = set(known) if names == "all" else {*names.split(","), REFERENCE}
    if unknown := wanted - set(known):
        raise UsageError(
            f"Unknown engines: {', '.join(sorted(unknown))}. Available: {', '.join(known)}, or all."
        )
    return [engine for engine in engines if engine.name in wanted]


def read_prompts(folder: Path, n_prompts: int) -> Prompts:
    """Build the prompts that the stages "infer" and "score" build from a run folder.

    Args:
        folder: The run folder; it is only read.
        n_prompts: Maximum number of prompts of each kind.

    Raises:
        DataError: The run has no test candidates.
    """
    config = folder / layout.CONFIG
    settings = load_settings(None, file=config if config.is_file() else None)
    with RunFolder.open(folder, read_only=True) as opened:
        tables = RunTables(opened)
        item_type = tables.item_type(settings)
        test = tables.candidates(tables.folds()[0], "test")
        if test.is_empty():
            raise DataError(f"{folder} has no test candidates. Use a run with test users.")
        uniform = test.filter(negatives=test["negatives"][0]).sort("user_id", maintain_order=True)
        # The stage scores the candidates of one item together.
        examples = list(
            build_examples(
                uniform.head(n_prompts).sort("item_id", maintain_order=True),
                tables.preferences(),
                tables.items(),
                item_type=item_type,
                max_text_tokens=settings.train.max_text_tokens,
            )
        )
        return Prompts(
            _last_block_prompts(tables, settings.infer, item_type, n_prompts),
            [example.prompt for example in examples],
            [example.user_id for example in examples],
        )


def _last_block_prompts(
    tables: RunTables, settings: InferSettings, item_type: str | ItemType, n_prompts: int
) -> list[Prompt]:
    """Return the prompt of each user's last block, which includes the previous preference."""
    histories = tables.histories()
    users = histories["user_id"].unique().sort().head(n_prompts)
    histories = histories.filter(pl.col("user_id").is_in(users.to_list()))
    lengths = histories.group_by("user_id").agg(length=pl.len())
    previous = tables.preferences().join(lengths, on="user_id", maintain_order="left")
    previous = previous.filter(pl.col("n_items") < pl.col("length")).drop("length")
    recorder = MockBackend((_ACCEPTED_ANSWER,))
    arguments = settings.model_dump(exclude={"enabled", "model"})
    infer_preferences(
        histories,
        tables.summaries(),
        recorder,
        item_type=item_type,
        **arguments,
        every_block=False,
        previous=previous,
    )
    return recorder.history[:n_prompts]


def measure(
    prompts: Prompts, engines: Sequence[Engine], *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Start all engines and call them alternately.

    Args:
        prompts: The prompts.
        engines: The engines; the others are compared with the first one.
        repeats: Number of timed repeats.

    Returns:
        For each engine "start_seconds", the time until it has answered one prompt of each kind
        (the time of the first engine includes imports), and for each kind of work: prompts and
        prompt tokens per second, elapsed and processor seconds of the repeats, the number of
        failed prompts, both durations relative to the first engine in the same repeat (medians;
        processor seconds are more reliable under other load), and the agreement with the first
        engine: the share of equal texts, or the largest difference of log-probabilities and
        whether the candidates of each user have the same order. "missing" is the reason why an
        engine cannot run or does not support a kind of work.
    """
    result: dict[str, dict[str, Any]] = {}
    running: list[_RunningEngine] = []
    with ExitStack() as stack:
        for engine in engines:
            try:
                running.append(_RunningEngine.start(engine, stack, prompts))
            except UsageError as error:
                result[engine.name] = {"missing": str(error)}
        for one in running:
            one.responses = {kind: one.call(kind, prompts.kinds[kind]) for kind in one.kinds}
        for _ in range(repeats):
            for one in running:
                one.time_call(prompts)
    return result | {one.name: _describe(one, prompts, first=running[0]) for one in running}


@dataclass(slots=True)
class _RunningEngine:
    """A running engine and its measurements.

    Attributes:
        name: Name of the engine.
        backend: Backend of the engine.
        kinds: Supported kinds of work.
        start_seconds: Seconds until the first responses.
        responses: Responses by kind of work and index of the prompt.
        seconds: Elapsed seconds of the repeats, by kind.
        processor_seconds: Processor seconds of this process and all its children, by kind.
    """

    name: str
    backend: Backend
    kinds: Sequence[str] = ()
    start_seconds: float = 0.0
    responses: Mapping[str, Mapping[int, Response]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor_seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, engine: Engine, stack: ExitStack, prompts: Prompts) -> _RunningEngine:
        """Start an engine and call it with one prompt of each kind of generation."""
        begin = time.perf_counter()
        running = cls(engine.name, stack.enter_context(engine.start()))
        for kind in ("preferences", "answers"):
            running.call(kind, prompts.kinds[kind][:1])
        running.start_seconds = time.perf_counter() - begin
        # Querying the capabilities takes requests, which are not part of the start.
        can_score = running.backend.capabilities.choices
        running.kinds = [kind for kind in prompts.kinds if can_score or kind != "scores"]
        return running

    def call(self, kind: str, prompts: Sequence[Prompt]) -> dict[int, Response]:
        """Return the responses to prompts."""
        if kind == "scores":
            return dict(self.backend.score(prompts, CHOICES))
        return dict(self.backend.generate(prompts))

    def time_call(self, prompts: Prompts) -> None:
        """Call the engine with all prompts and record the durations."""
        for kind in self.kinds:
            used, begin = process_tree_seconds(), time.perf_counter()
            self.call(kind, prompts.kinds[kind])
            self.seconds.setdefault(kind, []).append(time.perf_counter() - begin)
            self.processor_seconds.setdefault(kind, []).append(process_tree_seconds() - used)


def _describe(engine: _RunningEngine, prompts: Prompts, *, first: _RunningEngine) -> dict[str, Any]:
    """Return the result of one engine; see `measure`."""
    result: dict[str, Any] = {"start_seconds": round_digits(engine.start_seconds)}
    for kind, kind_prompts in prompts.kinds.items():
        if kind not in engine.kinds:
            result[kind] = {"missing": f"{engine.name} returns no log-probabilities"}
            continue
        responses = engine.responses[kind]
        seconds, used = engine.seconds[kind], engine.processor_seconds[kind]
        n_tokens = sum(response.prompt_tokens for response in responses.values())
        result[kind] = {
            "per_second": round_digits(len(kind_prompts) / median(seconds)),
            "tokens_read_per_second": round_digits(n_tokens / median(seconds)),
            "seconds": [round_digits(value) for value in seconds],
            "processor_seconds": [round_digits(value) for value in used],
            "failed": sum(response.error is not None for response in responses.values()),
        }
        if engine is not first:
            processor_ratio = _median_ratio(used, first.processor_seconds[kind])
            result[kind] |= {
                f"seconds_over_{first.name}": _median_ratio(seconds, first.seconds[kind]),
                f"processor_seconds_over_{first.name}": processor_ratio,
                **_agreement(responses, first.responses[kind], prompts.users),
            }
    return result


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median ratio over the repeats; infinite if a reference time is zero."""
    pairs = zip(ours, theirs, strict=True)
    return round_digits(median(one / other if other else float("inf") for one, other in pairs))


def _agreement(
    responses: Mapping[int, Response], expected: Mapping[int, Response], users: Sequence[str]
) -> dict[str, Any]:
    """Compare the responses of two engines; see `measure`."""
    equal: list[bool] = []
    differences: list[float] = []
    for index, other in expected.items():
        match responses[index], other:
            case Completion() as ours, Completion() as theirs:
                equal.append(ours.text == theirs.text and ours.error is None)
            case ChoiceScores(error=None) as ours, ChoiceScores(error=None) as theirs:
                pairs = zip(ours.log_probs, theirs.log_probs, strict=True)
                differences += [abs(a - b) for a, b in pairs]
    if equal:
        return {"equal_texts": round(fmean(equal), 4)}
    return {
        "largest_difference": round_digits(max(differences, default=0.0)),
        "order_kept": list(_orders(responses, users)) == list(_orders(expected, users)),
    }


def _orders(responses: Mapping[int, Response], users: Sequence[str]) -> Iterator[list[int]]:
    """Yield the prompts of each user that did not fail, ordered by decreasing probability."""

    def margin(index: int) -> float:
        match responses[index]:
            case ChoiceScores(log_probs=(positive, negative)):
                return negative - positive
        return float("inf")

    scored = [index for index in range(len(users)) if responses[index].error is None]
    by_user = sorted(scored, key=lambda index: (users[index], margin(index), index))
    for _, group in groupby(by_user, key=lambda index: users[index]):
        yield list(group)
