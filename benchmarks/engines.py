"""The same prompts through every engine that needs no GPU, and what Ray costs.

The packaged model's weights in float32 everywhere, without a response cache: in this process, as a
checkpoint of the backend `huggingface`, behind `transformers serve` and vLLM's server by the
backend `openai`, and in Ray's workers. All run beside each other and are asked in turn, so that
other work on the machine meets all of them.
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

from benchmarks._measure import tree_seconds
from benchmarks._starting import Engine, huggingface, in_process, ray, transformers_serve, vllm
from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import DataError, UsageError
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.context import Workspace, before_last, silent
from mllm_msr.recommend.recommender import CHOICES
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.summarization.preferences import infer_preferences
from mllm_msr.types import ChoiceScores, Completion, Prompt

REFERENCE: Final = "in_process"

# Any answer that the stage takes, so that it asks each prompt once.
_ANSWER: Final = "The user appears to have a preference for calm things that show boats."

CachedResponse = Completion | ChoiceScores


@dataclass(frozen=True, slots=True)
class Questions:
    """What every engine is asked.

    Attributes:
        preferences: Prompts of text that are answered by a user's preference.
        recommend: Prompts with images that ask whether a candidate comes next; item by item.
        users: Whose candidate it is, for each of them.
    """

    preferences: Sequence[Prompt]
    recommend: Sequence[Prompt]
    users: Sequence[str]

    @property
    def kinds(self) -> Mapping[str, Sequence[Prompt]]:
        """Prompts of each kind of work: texts written, one word written, two words scored."""
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
    """Measure the engines with a run's own prompts.

    Args:
        folder: A run folder whose preferences are inferred; only read.
        prompts: Prompts of each kind: a block of a user's history, and a candidate of a test user.
        repeats: Rounds, of which medians are given; a first one is not timed.
        threads: Threads of each engine and of each of Ray's workers. More than one wait for each
            other where the machine does other work, and times then say nothing.
        workers: Ray's workers; a single one is measured as well, which shows Ray's own cost.
        batch: Prompts that Ray gives a worker at a time.
        clients: Requests under way at `transformers serve`, which computes them one by one; at
            vLLM's server, which computes them together, there are `batch`.
        engines: Names of the engines to measure beside `in_process`, joined by commas.

    Returns:
        For each engine what `measure` says; what was asked of them; and the machine's load before
        and after, above whose cores times say little.

    Raises:
        UsageError: There is no engine of a name.
        DataError: The run has no test candidates.
    """
    load = os.getloadavg()[0]
    known = _engines(threads, workers=workers, batch=batch, clients=clients)
    chosen = _chosen(known, engines)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    asked = questions(Path(folder), prompts)
    found = measure(asked, chosen, repeats=repeats)
    return {
        "dtype": "float32",
        "prompts": {"preferences": len(asked.preferences), "recommend": len(asked.recommend)},
        "images": len({image for prompt in asked.recommend for image in prompt.images}),
        "repeats": repeats,
        "threads": threads,
        "batch": batch,
        "clients": clients,
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "engines": found,
    }


def questions(folder: Path, n_prompts: int) -> Questions:
    """The prompts of a run folder, as its stages "infer" and "score" ask them.

    Args:
        folder: The run folder; only read.
        n_prompts: Of each kind, fewer where the run has not so many.

    Raises:
        DataError: The run has no test candidates.
    """
    kept = folder / layout.CONFIG
    settings = load_settings(None, file=kept if kept.is_file() else None)
    with RunFolder.open(folder, read_only=True) as opened:
        work = Workspace(opened, settings, force=False, progress=silent)
        test = work.candidates(work.folds()[0]).filter(split="test")
        if test.is_empty():
            raise DataError(
                needed="test candidates",
                received=f"none in {folder}",
                remedy="name a run folder with test users",
            )
        first = test.filter(negatives=test["negatives"][0]).sort("user_id", maintain_order=True)
        # The stage asks about the same item together.
        examples = list(work.examples(first.head(n_prompts).sort("item_id", maintain_order=True)))
        return Questions(
            _last_steps(work, n_prompts),
            [example.prompt for example in examples],
            [example.user_id for example in examples],
        )


def measure(
    asked: Questions, engines: Sequence[Engine], *, repeats: int
) -> dict[str, dict[str, Any]]:
    """Ask all engines.

    Args:
        asked: The prompts.
        engines: They are asked in turn; the others are compared with the first.
        repeats: Timed rounds.

    Returns:
        By engine the seconds until it had answered one prompt of each kind ("start_seconds"; the
        first engine imports what later ones in this process share), and by kind of work the
        prompts answered and the tokens read per second, the seconds over those of the first engine
        in the same round (a median, as all), the same of processor seconds, which say more where
        the machine does other work, failed prompts, and what the responses are against the first
        engine's: the share of equal texts, or the largest difference of log-probabilities
        and whether every user's candidates keep their order. An engine that lacks a package, or
        work that an engine cannot do, has one sentence ("missing").
    """
    found: dict[str, dict[str, Any]] = {}
    ways: list[_Way] = []
    with ExitStack() as stack:
        for engine in engines:
            try:
                ways.append(_Way.started(engine, stack, asked))
            except UsageError as error:
                found[engine.name] = {"missing": str(error)}
        for way in ways:
            way.responses = {kind: way.ask(kind, asked.kinds[kind]) for kind in way.kinds}
        for _ in range(repeats):
            for way in ways:
                way.clock(asked)
    return found | {way.name: _result(way, asked, first=ways[0]) for way in ways}


@dataclass(slots=True)
class _Way:
    """A running engine.

    Attributes:
        name: Its name.
        backend: Answers.
        kinds: Work that it can do.
        start_seconds: How long its start took.
        responses: What it answered, by kind of work.
        seconds: Durations of each kind's rounds.
        processor_seconds: Processor time of this process and all its children in them.
    """

    name: str
    backend: Backend
    kinds: Sequence[str] = ()
    start_seconds: float = 0.0
    responses: Mapping[str, Mapping[int, CachedResponse]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    processor_seconds: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def started(cls, engine: Engine, stack: ExitStack, asked: Questions) -> _Way:
        """Start an engine and let it answer one prompt of each kind that it can."""
        begun = time.perf_counter()
        way = cls(engine.name, stack.enter_context(engine.start()))
        for kind in ("preferences", "answers"):
            way.ask(kind, asked.kinds[kind][:1])
        way.start_seconds = time.perf_counter() - begun
        # Asking a server what it can do takes requests of its own, which are no part of a start.
        able = way.backend.capabilities.choices
        way.kinds = [kind for kind in asked.kinds if able or kind != "scores"]
        return way

    def ask(self, kind: str, prompts: Sequence[Prompt]) -> dict[int, CachedResponse]:
        """Its answers to prompts."""
        if kind == "scores":
            return dict(self.backend.score(prompts, CHOICES))
        return dict(self.backend.generate(prompts))

    def clock(self, asked: Questions) -> None:
        """Ask everything once more and note the seconds."""
        for kind in self.kinds:
            used, begun = tree_seconds(), time.perf_counter()
            self.ask(kind, asked.kinds[kind])
            self.seconds.setdefault(kind, []).append(time.perf_counter() - begun)
            self.processor_seconds.setdefault(kind, []).append(tree_seconds() - used)


def _engines(threads: int, *, workers: int, batch: int, clients: int) -> list[Engine]:
    """All engines, the one that others are compared with first."""
    part = functools.partial
    serve = part(transformers_serve, threads, clients=clients)
    return [
        Engine(REFERENCE, part(in_process, threads)),
        Engine("huggingface", part(huggingface, threads)),
        Engine("openai_transformers_serve", serve),
        Engine("openai_vllm", part(vllm, threads, clients=batch)),
        *(
            Engine(f"ray_{n}", part(ray, threads, workers=n, batch=batch))
            for n in sorted({1, workers})
        ),
    ]


def _chosen(engines: Sequence[Engine], names: str) -> list[Engine]:
    """The engines that are asked for, and the one that they are compared with."""
    known = [engine.name for engine in engines]
    wanted = set(known) if names == "all" else {*names.split(","), REFERENCE}
    if unknown := wanted - set(known):
        raise UsageError(
            needed=f"engines among {', '.join(known)}",
            received=", ".join(sorted(unknown)),
            remedy="name some of these, joined by commas, or all",
        )
    return [engine for engine in engines if engine.name in wanted]


def _last_steps(work: Workspace, n_prompts: int) -> list[Prompt]:
    """The prompt of each user's last block, which holds the preference that the run has before."""
    histories = before_last(work.run.read("interactions"))
    users = histories["user_id"].unique().sort().head(n_prompts)
    histories = histories.filter(pl.col("user_id").is_in(users.to_list()))
    lengths = histories.group_by("user_id").agg(length=pl.len())
    known = work.run.read("preferences").join(lengths, on="user_id", maintain_order="left")
    known = known.filter(pl.col("n_items") < pl.col("length")).drop("length")
    recorder = MockBackend((_ANSWER,))
    arguments = work.settings.infer.model_dump(mode="json", exclude={"model"})
    infer_preferences(
        histories,
        work.run.read("summaries"),
        recorder,
        item_type=work.item_type,
        **arguments,
        every_block=False,
        previous=known,
    )
    return recorder.history[:n_prompts]


def _result(way: _Way, asked: Questions, *, first: _Way) -> dict[str, Any]:
    """What `measure` says of one engine."""
    result: dict[str, Any] = {"start_seconds": _rounded(way.start_seconds)}
    for kind, prompts in asked.kinds.items():
        if kind not in way.kinds:
            result[kind] = {"missing": f"{way.name} gives no log-probabilities"}
            continue
        responses, seconds, used = (
            way.responses[kind],
            way.seconds[kind],
            way.processor_seconds[kind],
        )
        n_read = sum(response.prompt_tokens for response in responses.values())
        result[kind] = {
            "per_second": _rounded(len(prompts) / median(seconds)),
            "tokens_read_per_second": _rounded(n_read / median(seconds)),
            "seconds": [_rounded(value) for value in seconds],
            "processor_seconds": [_rounded(value) for value in used],
            "failed": sum(response.error is not None for response in responses.values()),
        }
        if way is not first:
            result[kind] |= {
                f"seconds_over_{first.name}": _ratio(seconds, first.seconds[kind]),
                f"processor_seconds_over_{first.name}": _ratio(used, first.processor_seconds[kind]),
                **_agreement(responses, first.responses[kind], asked.users),
            }
    return result


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios; that of work too short for the clock is infinite."""
    pairs = zip(ours, theirs, strict=True)
    return _rounded(median(one / other if other else float("inf") for one, other in pairs))


def _agreement(
    responses: Mapping[int, CachedResponse],
    expected: Mapping[int, CachedResponse],
    users: Sequence[str],
) -> dict[str, Any]:
    """How responses differ from those expected."""
    texts: list[bool] = []
    differences: list[float] = []
    for index, other in expected.items():
        match responses[index], other:
            case Completion() as ours, Completion() as theirs:
                texts.append(ours.text == theirs.text and ours.error is None)
            case ChoiceScores(error=None) as ours, ChoiceScores(error=None) as theirs:
                pairs = zip(ours.log_probs, theirs.log_probs, strict=True)
                differences += [abs(a - b) for a, b in pairs]
    if texts:
        return {"equal_texts": round(fmean(texts), 4)}
    return {
        "largest_difference": _rounded(max(differences, default=0.0)),
        "order_kept": list(_orders(responses, users)) == list(_orders(expected, users)),
    }


def _orders(responses: Mapping[int, CachedResponse], users: Sequence[str]) -> Iterator[list[int]]:
    """Each user's prompts, the most probable first; those that failed are left out."""

    def margin(index: int) -> float:
        match responses[index]:
            case ChoiceScores(log_probs=(positive, negative)):
                return negative - positive
        return float("inf")

    scored = [index for index in range(len(users)) if responses[index].error is None]
    by_user = sorted(scored, key=lambda index: (users[index], margin(index), index))
    for _, group in groupby(by_user, key=lambda index: users[index]):
        yield list(group)


def _rounded(value: float) -> float:
    """Three digits are all that such measurements carry."""
    return float(f"{value:.3g}")
