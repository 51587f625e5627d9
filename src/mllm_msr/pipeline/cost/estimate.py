"""The bill before the run: calls, tokens, hours, price and disk of every stage that asks a model.

Each stage's own code is run on a sample of a prepared run folder against a `CountingBackend`, which counts
what it would ask; what a sample gives is scaled to the whole. How long answers will be is known
only from answers: those that the run has already, those of a pilot (kept in the response cache, so
that nothing is paid for twice), or else the length that the settings allow, a ceiling.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import polars as pl

from mllm_msr import registry
from mllm_msr.config.settings import ModelSettings
from mllm_msr.data._hashing import hash_ids
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.interfaces import Backend, Joiner
from mllm_msr.pipeline.context import Workspace, before_last
from mllm_msr.pipeline.cost.report import Plan, StageCost
from mllm_msr.pipeline.cost.token_counter import Call, CountingBackend, TokenCounter, counter_for
from mllm_msr.ranker.examples import NEGATIVE_ANSWER, POSITIVE_ANSWER, build_prompt
from mllm_msr.summarization import items as item_summaries
from mllm_msr.summarization import preferences
from mllm_msr.types import Completion, Item, Prompt

_ANSWERS: Final = (POSITIVE_ANSWER, NEGATIVE_ANSWER)
# A backward pass costs about two forward passes.
_TRAINING_PASSES: Final = 3
# A response's key twice (row and index), its checksum and the names of its fields.
_BYTES_PER_REPLY: Final = 300


def plan(work: Workspace) -> Plan:
    """Estimate what the run's stages will cost.

    Args:
        work: A run folder whose stage "prepare" is done.

    Raises:
        RunFolderError: It is not.
        BackendError: The pilot's model cannot be asked.
    """
    return _Planner(work).plan()


def warnings(work: Workspace) -> list[str]:
    """One sentence for each budget of `plan.*` that the rest of the run would exceed."""
    settings = work.settings.plan
    budgets = (settings.budget_price, settings.budget_hours, settings.budget_tokens)
    if budgets == (None, None, None):
        return []
    bill = plan(work)
    found = []
    names = ("price", "hours", "tokens")
    for name, budget, value in zip(
        names, budgets, (bill.price, bill.hours, bill.tokens), strict=True
    ):
        if budget is not None and value is None:
            found.append(f"plan.budget_{name}={budget:g} cannot be checked without a rate")
        elif budget is not None and value is not None and value > budget:
            found.append(
                f"the run is estimated at {value:,.2f} {name}, above plan.budget_{name}={budget:g} "
                f"({bill.lengths_by})"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Rates:
    """Tokens per second, read and written; `None` where unknown."""

    prompt: float | None
    output: float | None

    def seconds(self, n_prompt: float, n_output: float) -> float | None:
        if self.prompt is None or (self.output is None and n_output):
            return None
        return n_prompt / self.prompt + (n_output / self.output if self.output else 0.0)


class _Planner:
    """One plan in the making: its samples and the answers collected so far."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._settings = work.settings
        self._items = self._items_read(work.items())
        self._histories = before_last(work.run.read("interactions"))
        self._counters: dict[str, TokenCounter] = {}
        self._pools: dict[str, list[Completion]] = {}
        self._rates = _Rates(self._settings.plan.prompt_rate, self._settings.plan.output_rate)
        self._lengths_by = "the settings' limits, a ceiling"

    def plan(self) -> Plan:
        if self._settings.plan.pilot:
            self._pilot(self._settings.plan.pilot)
        size = self._settings.plan.sample
        stages = [self._summarize(size), self._infer(size)]
        if self._settings.train.enabled:
            stages += [self._train(fold) for fold in self._work.folds()]
        names = ["zero_shot"] if self._settings.score.zero_shot else []
        names += ["mllm_msr"] if self._settings.train.enabled else []
        stages += [self._score(name) for name in names]
        stages += [self._score(name, split="validation") for name in self._joined(names)]
        basis = sorted({counter.basis for counter in self._counters.values()})
        return Plan(tuple(stages), "; ".join(basis), self._lengths_by)

    def _pilot(self, size: int) -> None:
        """Let the models answer samples: their answers' lengths, and their speed."""
        prices = self._settings.plan
        written = _Clock()
        with self._work.backend(self._settings.summarize.model) as engine:
            counting_backend = self._meter(self._settings.summarize.model, engine)
            items = _sample(self._items, "item_id", size + 1)
            summaries_of(items[:1], counting_backend, self._work)  # the model is loaded now
            with written.running(counting_backend, engine):
                self._summaries = summaries_of(items, counting_backend, self._work)
        with self._work.backend(self._settings.infer.model) as engine:
            other = self._meter(self._settings.infer.model, engine)
            histories = _sample(self._histories, "user_id", size)
            with written.running(other, engine):
                preference_history = preferences_of(histories, self._told(), other, self._work)
        self._pools = {**counting_backend.pool, **other.pool}
        self._lengths_by = f"a pilot of {size} items and users"
        read = _Clock()
        with self._work.backend(self._settings.score.model) as engine:
            counting_backend = self._meter(self._settings.score.model, engine)
            questions = list(
                self._questions(self._rows("test")[: 4 * size], [*preference_history["preference"]])
            )
            list(counting_backend.score(questions[:1], _ANSWERS))
            with read.running(counting_backend, engine):
                list(counting_backend.score(questions[1:], _ANSWERS))
        prompt_rate = prices.prompt_rate or read.prompt_rate()
        self._rates = _Rates(prompt_rate, prices.output_rate or written.output_rate(prompt_rate))

    def _items_read(self, items: pl.DataFrame) -> pl.DataFrame:
        """The items that will be summarised."""
        infer = self._settings.infer
        if self._settings.summarize.scope == "all":
            return items
        histories = before_last(self._work.run.read("interactions"))
        read = preferences.items_read(
            histories, block_size=infer.block_size, max_items=infer.max_items
        )
        return items.filter(pl.col("item_id").is_in(read.implode()))

    def _summarize(self, size: int) -> StageCost:
        model = self._settings.summarize.model
        counting_backend, sample = self._meter(model), _sample(self._items, "item_id", size)
        self._summaries = summaries_of(sample, counting_backend, self._work)
        if self._work.run.has("summaries"):
            self._summaries = self._work.run.read("summaries")
            self._lengths_by = "answers of this run"
        sides = self._settings.summarize.modalities
        n_calls, n_sampled = (
            item_summaries.n_prompts(items, sides) for items in (self._items, sample)
        )
        return self._cost(
            "summarize", model, counting_backend.calls, scale=n_calls / max(1, n_sampled)
        )

    def _infer(self, size: int) -> StageCost:
        model = self._settings.infer.model
        counting_backend, sample = self._meter(model), _sample(self._histories, "user_id", size)
        preference_history = preferences_of(sample, self._told(), counting_backend, self._work)
        if self._work.run.has("preferences"):
            preference_history = self._work.run.read("preferences")
        self._texts = preference_history["preference"].to_list()
        scale = self._n_steps(self._histories) / max(1, self._n_steps(sample))
        return self._cost("infer", model, counting_backend.calls, scale=scale)

    def _n_steps(self, histories: pl.DataFrame) -> int:
        """What the number of prompts grows with."""
        settings = self._settings.infer
        if settings.method == "direct":
            return histories.height
        return preferences.n_prompts(
            histories, block_size=settings.block_size, max_items=settings.max_items
        )

    def _told(self) -> pl.DataFrame:
        """A summary for every item: its own where there is one, else one of another item."""
        missing = self._items.join(self._summaries, on="item_id", how="anti")["item_id"]
        if missing.is_empty() or self._summaries.is_empty():
            return self._summaries
        turns = pl.Series([n % self._summaries.height for n in range(missing.len())])
        lent = self._summaries[turns].with_columns(item_id=missing)
        return pl.concat([self._summaries, lent])

    def _rows(self, split: str) -> pl.DataFrame:
        """The questions of the stage "score" about one split, each once."""
        every = pl.concat(self._work.candidates(fold) for fold in self._work.folds())
        rows = every.filter(pl.col("split") == split)
        asked = rows.unique(["user_id", "position", "item_id"], maintain_order=True)
        return asked.sample(fraction=1.0, shuffle=True, seed=0)

    def _train(self, fold: int) -> StageCost:
        rows = self._work.candidates(fold).filter(pl.col("split") == "train")
        calls, _ = self._asked(rows, None)
        n_examples = rows.height * self._settings.train.epochs
        cost = self._cost(f"train/{fold}", None, calls, scale=n_examples / max(1, len(calls)))
        seconds = self._rates.seconds(_TRAINING_PASSES * cost.prompt_tokens, 0)
        # Nobody is paid for it by tokens, and it leaves no responses.
        return replace(cost, price=0.0, disk_bytes=0, output_tokens=0, seconds=seconds)

    def _joined(self, names: Sequence[str]) -> list[str]:
        """The MLLMs that score validation users too, because a baseline joins them."""
        kinds = [registry.find("baselines", name) for name in self._settings.score.baselines]
        joins = any(issubclass(kind, Joiner) for kind in kinds)
        return [name for name in self._settings.score.joined if joins and name in names]

    def _score(self, name: str, *, split: str = "test") -> StageCost:
        model, asked = self._settings.score.model, self._rows(split)
        folds = self._work.folds()
        n_rows = sum(
            self._work.candidates(fold).filter(pl.col("split") == split).height for fold in folds
        )
        n_users = self._settings.score.full_users_mllm if split == "test" else 0
        n_full = n_users * len(folds) * self._work.items().height
        n_calls = asked.height + n_full
        calls, n_prefix = self._asked(asked, model)
        stage = f"score/{name}" if split == "test" else f"validation/{name}"
        cost = self._cost(stage, model, calls, scale=n_calls / max(1, len(calls)))
        return replace(
            cost,
            calls=n_calls,
            spared_calls=n_rows - asked.height,
            shared_tokens=round(n_prefix * max(0, n_calls - asked["item_id"].n_unique())),
        )

    def _asked(self, rows: pl.DataFrame, model: ModelSettings | None) -> tuple[list[Call], float]:
        """The recommender's questions for a sample of rows, and how many tokens an item's share."""
        counting_backend, others = self._meter(model), self._meter(model)
        sample = rows.sample(min(rows.height, self._settings.plan.sample), seed=0)
        list(counting_backend.score(self._questions(sample, self._texts), _ANSWERS))
        list(others.score(self._questions(sample, ["Something else."]), _ANSWERS))
        pairs = zip(counting_backend.calls, others.calls, strict=False)
        shared = [_n_common(one.counted.ids, other.counted.ids) for one, other in pairs]
        return counting_backend.calls, sum(shared) / max(1, len(shared))

    def _questions(self, rows: pl.DataFrame, texts: Sequence[str]) -> Iterator[Prompt]:
        """The rows' questions, with preferences from all over the preference_history."""
        named = rows.select("item_id").join(
            self._work.items(), on="item_id", how="left", maintain_order="left"
        )
        step = max(1, len(texts) // max(1, rows.height))
        spread = itertools.cycle(texts[::step] or ("",))
        for row, text in zip(named.iter_rows(named=True), spread, strict=False):
            image = Path(row["image"]) if row["image"] else None
            yield build_prompt(
                text,
                Item(row["item_id"], row["title"] or "", row["text"] or "", image),
                item_type=self._work.item_type,
                max_text_tokens=self._settings.train.max_text_tokens,
            )

    def _cost(
        self, stage: str, model: ModelSettings | None, calls: Sequence[Call], *, scale: float
    ) -> StageCost:
        backend = (model or self._settings.model).backend
        kind = cast("type[Backend]", registry.find("backends", backend))
        n_prompt = scale * sum(call.counted.n_tokens for call in calls)
        n_output = scale * sum(call.n_output for call in calls)
        prices = self._settings.plan
        price = (n_prompt * prices.prompt_price + n_output * prices.output_price) / 1e6
        size = sum(_BYTES_PER_REPLY + call.n_characters for call in calls)
        return StageCost(
            stage,
            backend,
            calls=round(scale * len(calls)),
            prompt_tokens=round(n_prompt),
            image_tokens=round(scale * sum(call.counted.n_image_tokens for call in calls)),
            output_tokens=round(n_output),
            seconds=self._rates.seconds(n_prompt, n_output),
            price=0.0 if kind.is_local else price,
            disk_bytes=round(scale * size),
            done=stage in self._work.run.stages,
        )

    def _meter(self, model: ModelSettings | None, engine: Backend | None = None) -> CountingBackend:
        chosen = model or self._settings.model
        key = chosen.model_dump_json()
        if key not in self._counters:
            self._counters[key] = counter_for(chosen.backend, chosen.plugin_kwargs())
        return CountingBackend(self._counters[key], engine=engine, pool=self._pools)


class _Clock:
    """What models that were asked for real have read and written, and in which time."""

    def __init__(self) -> None:
        self._seconds = self._n_prompt = self._n_output = 0.0

    @contextlib.contextmanager
    def running(self, counting_backend: CountingBackend, engine: CachedBackend) -> Iterator[None]:
        """Time a block; it counts only where the cache had nothing to answer in it."""
        start, known, hits = time.perf_counter(), len(counting_backend.calls), engine.hits
        yield
        calls = counting_backend.calls[known:]
        if engine.hits - hits <= len(calls) // 2:
            self._seconds += time.perf_counter() - start
            self._n_prompt += sum(call.counted.n_tokens for call in calls)
            self._n_output += sum(call.n_output for call in calls)

    def prompt_rate(self) -> float | None:
        """Tokens read per second."""
        return self._n_prompt / self._seconds if self._seconds else None

    def output_rate(self, prompt_rate: float | None) -> float | None:
        """Tokens written per second, once reading is taken off."""
        if prompt_rate is None or not self._seconds:
            return None
        seconds = self._seconds - self._n_prompt / prompt_rate
        return self._n_output / max(seconds, 0.1 * self._seconds)


def summaries_of(items: pl.DataFrame, backend: Backend, work: Workspace) -> pl.DataFrame:
    """The stage "summarize" over some items, without its run folder."""
    arguments = work.settings.summarize.model_dump(mode="json", exclude={"model", "scope"})
    return item_summaries.summarize(items, backend, item_type=work.item_type, **arguments)


def preferences_of(
    histories: pl.DataFrame, told: pl.DataFrame, backend: Backend, work: Workspace
) -> pl.DataFrame:
    """The stage "infer" over some histories, without its run folder."""
    arguments = work.settings.infer.model_dump(mode="json", exclude={"model"})
    arguments["preference_history"] = work.settings.data.train_targets != "last"
    return preferences.infer_preferences(
        histories, told, backend, item_type=work.item_type, **arguments
    )


def _sample(frame: pl.DataFrame, column: str, size: int) -> pl.DataFrame:
    """All rows of so many users or items, whose choice depends on their ids alone."""
    ids = frame[column].unique()
    hashes = pl.Series("hash", hash_ids(ids, 0, purpose="plan"))
    chosen = pl.DataFrame({column: ids, "hash": hashes}).sort("hash", column).head(size)
    return frame.join(chosen, on=column, how="semi", maintain_order="left")


def _n_common(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
