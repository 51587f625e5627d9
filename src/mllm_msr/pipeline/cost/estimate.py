"""Cost estimate of a run: calls, tokens, hours, price and disk space of stages that call a model.

The code of the stages runs on samples of a prepared run folder with a `CountingBackend`, and the
counts are scaled to the whole run. The lengths of responses come from responses of the run, from a
pilot (whose responses stay in the cache for the run), or else from the limits in the settings,
which give an upper bound.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from mllm_msr import tables
from mllm_msr.baselines._ensemble.held_out import MAX_TARGETS_LLM, N_NEGATIVES_LLM
from mllm_msr.baselines._factory import baseline_class
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.backends import backend_class, open_cached
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.cost.alignment_calls import alignment_calls
from mllm_msr.pipeline.cost.prompt_orders import (
    COMPARED,
    PromptLengths,
    compare_orders,
    mean_shared_tokens,
    prefixes_per_example,
    shared_columns,
)
from mllm_msr.pipeline.cost.ranking_prompts import RankingPrompts
from mllm_msr.pipeline.cost.report import CostReport, ListCalls, OrderCost, StageCost
from mllm_msr.pipeline.cost.samples import sample_ids
from mllm_msr.pipeline.cost.throughput import Rates, Throughput
from mllm_msr.pipeline.cost.token_counter import Call, CountingBackend, TokenCounter, token_counter
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.stage_settings import skipped_stages
from mllm_msr.pipeline.stages.summarize import items_to_summarize
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.ranker.recommender import MLLM_MSR, ZERO_SHOT
from mllm_msr.ranker.training_candidates import select_candidates
from mllm_msr.storage import layout
from mllm_msr.summarization import items as item_summaries
from mllm_msr.summarization import preferences
from mllm_msr.types import Completion

# A backward pass costs about two forward passes.
_TRAINING_PASSES: Final = 3
# Overhead of a cached response: its key (in the row and in the index), checksum and field names.
_BYTES_PER_RESPONSE: Final = 300


def plan(context: RunContext, settings: Settings, *, lists: ListCalls | None = None) -> CostReport:
    """Estimate the cost of a run.

    Args:
        context: A run folder whose stage "prepare" is finished.
        settings: The run's settings.
        lists: Calls of a recommendation list; None leaves lists out of the report.

    Raises:
        RunFolderError: The stage "prepare" is not finished.
        BackendError: The model of the pilot failed.
    """
    return _CostEstimator(context, settings, lists).estimate()


class _CostEstimator:
    """Estimator of the cost of a run; later stages use the sampled texts of earlier ones."""

    def __init__(self, context: RunContext, settings: Settings, lists: ListCalls | None) -> None:
        self._run = context.run
        self._settings = settings
        self._lists = lists
        self._finished = skipped_stages(context, settings)
        self._tables = RunTables(context.run)
        self._item_type = self._tables.item_type(settings)
        self._catalog = self._tables.items()
        self._histories = self._tables.histories()
        self._items = items_to_summarize(
            self._catalog, self._histories, settings.summarize, settings.infer
        )
        self._candidates = pl.concat(self._tables.candidates(fold) for fold in self._tables.folds())
        # Replaced by the results of the stages.
        self._summaries, self._texts = tables.empty(tables.SUMMARIES), list[str]()
        self._prompts = RankingPrompts(
            settings, self._catalog, self._tables.interactions(), item_type=self._item_type
        )
        self._counters: dict[str, TokenCounter] = {}
        self._responses: dict[str, list[Completion]] = {}
        self._rates = Rates(settings.plan.prompt_rate, settings.plan.output_rate)
        self._lengths_by = "the limits in the settings (upper bound)"

    def estimate(self) -> CostReport:
        """Return the costs of all stages."""
        settings = self._settings
        if settings.plan.pilot:
            self._run_pilot(settings.plan.pilot)
        stages = [self._align()] if settings.align.enabled else []
        stages += [self._summarize()] if settings.summarize.enabled else []
        stages += [self._infer()] if settings.infer.enabled else []
        names = [ZERO_SHOT] if settings.score.zero_shot else []
        if settings.train.enabled:
            stages += [self._train(fold) for fold in self._tables.folds()]
            names.append(MLLM_MSR)
        if settings.distill.enabled:
            stages += [self._distill(fold) for fold in self._tables.folds()]
        stages += [self._score(name) for name in names]
        stages += self._score_members(names)
        basis = sorted({counter.basis for counter in self._counters.values()})
        orders = self._compare_orders()
        return CostReport(tuple(stages), "; ".join(basis), self._lengths_by, orders, self._lists)

    def _run_pilot(self, size: int) -> None:
        """Answer samples with the models to measure speed and the lengths of responses."""
        settings = self._settings
        generation = Throughput()
        if settings.summarize.enabled:
            with self._open(settings.summarize.model) as backend:
                counting = self._counting(settings.summarize.model, backend)
                items = sample_ids(self._items, "item_id", size + 1)
                # Loads the model before the measurement.
                self._summarize_items(items[:1], counting)
                with generation.measure(counting, backend):
                    self._summaries = self._summarize_items(items, counting)
                self._responses |= counting.responses
        if settings.infer.enabled:
            with self._open(settings.infer.model) as backend:
                counting = self._counting(settings.infer.model, backend)
                histories = sample_ids(self._histories, "user_id", size)
                with generation.measure(counting, backend):
                    inferred = self._infer_preferences(histories, counting)
                self._texts = inferred["preference"].to_list()
                self._responses |= counting.responses
        self._lengths_by = f"a pilot of {size} items and users"
        scoring = Throughput()
        with self._open(settings.score.model) as backend:
            counting = self._counting(settings.score.model, backend)
            rows = self._prompt_rows("test")[: 4 * size]
            order = settings.recommend.order
            prompts = list(self._prompts.build(rows, self._texts, self._summaries, order))
            list(counting.score(prompts[:1], CHOICES))
            with scoring.measure(counting, backend):
                list(counting.score(prompts[1:], CHOICES))
        prompt_rate = settings.plan.prompt_rate or scoring.prompt_rate()
        output_rate = settings.plan.output_rate or generation.output_rate(prompt_rate)
        self._rates = Rates(prompt_rate, output_rate)

    def _align(self) -> StageCost:
        settings, items = self._settings, self._catalog
        sample = sample_ids(items, "item_id", settings.plan.sample)
        counter = self._counter(settings.model)
        calls = alignment_calls(sample, counter, settings, item_type=self._item_type)
        scale = settings.align.epochs * items.height / sample.height
        return self._without_price(self._cost("align", None, calls, scale=scale))

    def _summarize(self) -> StageCost:
        settings = self._settings.summarize
        sample = sample_ids(self._items, "item_id", self._settings.plan.sample)
        self._summaries = self._summarize_items(sample, counting := self._counting(settings.model))
        if self._run.has(layout.SUMMARIES):
            self._summaries = self._tables.summaries()
            self._lengths_by = "responses of this run"
        n_calls, n_sampled = (
            item_summaries.n_prompts(items, settings.modalities) for items in (self._items, sample)
        )
        scale = n_calls / max(1, n_sampled)
        return self._cost("summarize", settings.model, counting.calls, scale=scale)

    def _infer(self) -> StageCost:
        settings = self._settings.infer
        sample = sample_ids(self._histories, "user_id", self._settings.plan.sample)
        inferred = self._infer_preferences(sample, counting := self._counting(settings.model))
        if self._run.has(layout.PREFERENCES):
            inferred = self._tables.preferences()
        self._texts = inferred["preference"].to_list()
        if settings.method == "direct":
            n_calls, n_sampled = self._histories.height, sample.height
        else:
            n_calls, n_sampled = (
                preferences.n_prompts(
                    histories, block_size=settings.block_size, max_items=settings.max_items
                )
                for histories in (self._histories, sample)
            )
        scale = n_calls / max(1, n_sampled)
        return self._cost("infer", settings.model, counting.calls, scale=scale)

    def _train(self, fold: int) -> StageCost:
        data = self._tables.training_data(fold)
        rows = data.candidates.filter(pl.col("split") == "train")
        rows = select_candidates(rows, data.interactions, self._settings.train)
        order, train = self._settings.recommend.order, self._settings.train
        calls, n_shared = self._sample_calls(rows, None, order)
        scale = (n_examples := rows.height * train.epochs) / max(1, len(calls))
        cost = self._without_price(self._cost(f"train/{fold}", None, calls, scale=scale))
        shares = train.cache_vision and train.loss == "answer"
        share = 1 - prefixes_per_example(rows, order, train) if shares else 0
        return replace(cost, shared_tokens=round(n_shared * n_examples * share))

    def _without_price(self, cost: StageCost) -> StageCost:
        """Return the cost of a training: no price per token, and no cached responses."""
        seconds = self._rates.seconds(
            _TRAINING_PASSES * (cost.prompt_tokens + cost.output_tokens), 0
        )
        return replace(cost, price=0.0, disk_bytes=0, output_tokens=0, seconds=seconds)

    def _distill(self, fold: int) -> StageCost:
        section = self._settings.distill
        n_targets = self._candidates.filter(fold=fold, split="train", label=1).height
        n_pairs = min(section.budget, n_targets * section.list_size)
        return self._ranking_cost(f"distill/{fold}", "train", n_calls=n_pairs)

    def _score(self, name: str) -> StageCost:
        """Return the cost of scoring test candidates and full rankings with an MLLM."""
        n_users = self._settings.score.full_users_mllm * len(self._tables.folds())
        return self._ranking_cost(f"score/{name}", "test", n_extra=n_users * self._catalog.height)

    def _score_members(self, names: Sequence[str]) -> Iterator[StageCost]:
        """Yield the cost of ensembles, whose MLLM members score held-out targets as well.

        Test candidates cost nothing, because the members have already scored them. There is about
        one target for each test user; without preferences at earlier positions, weights come from
        validation users.
        """
        n_calls, split = None, "validation"
        if self._settings.data.train_targets != "last":
            n_users = self._candidates.filter(split="test").select("fold", "user_id").n_unique()
            n_targets = min(MAX_TARGETS_LLM * len(self._tables.folds()), n_users)
            n_calls = n_targets * (1 + N_NEGATIVES_LLM * len(self._settings.data.negatives))
            split = "test"
        counted: set[str] = set()
        for baseline in self._settings.score.baselines:
            if getattr(baseline_class(baseline), "default_members", None) is None:
                continue
            given = self._settings.baselines.arguments(baseline).get("members")
            members = {MLLM_MSR} if given is None else set(given)
            for name in names:
                if name in members - counted:
                    yield self._ranking_cost(f"score/{baseline}", split, n_calls=n_calls)
            counted |= members

    def _ranking_cost(
        self, stage: str, split: str, *, n_extra: int = 0, n_calls: int | None = None
    ) -> StageCost:
        """Return the cost of scoring a split and `n_extra` further rows, or `n_calls` such rows."""
        model = self._settings.score.model
        rows = self._prompt_rows(split)
        n_cached = self._candidates.filter(split=split).height - rows.height
        if n_calls is None:
            n_calls = rows.height + n_extra
        else:
            n_cached = 0
        calls, n_shared = self._sample_calls(rows, model, order := self._settings.recommend.order)
        cost = self._cost(stage, model, calls, scale=n_calls / max(1, len(calls)))
        return replace(
            cost,
            calls=n_calls,
            cached_calls=n_cached,
            shared_tokens=round(
                n_shared * max(0, n_calls - rows.select(shared_columns(order)).n_unique())
            ),
        )

    def _compare_orders(self) -> tuple[OrderCost, ...]:
        """Compare the orders of the ranker's prompt for training, test candidates and a list."""
        if self._settings.recommend.order not in COMPARED:
            return ()
        model = self._settings.score.model
        test = self._prompt_rows("test")
        lengths: dict[PromptOrder, PromptLengths] = {}
        for order in COMPARED:
            calls, n_shared = self._sample_calls(test, model, order)
            n_tokens = sum(call.prompt.n_tokens for call in calls) / max(1, len(calls))
            lengths[order] = PromptLengths(n_tokens, n_shared)
        caches_images = (
            backend_class(self._settings.model).caches_image_prefixes
            and self._settings.retrieve.prefix_cache_bytes > 0
        )
        others = self._candidates.filter(pl.col("split") != "test")
        rows = pl.concat([others, test])
        n_list = 0 if self._lists is None else self._lists.calls
        return compare_orders(
            lengths, rows, self._settings, n_list=n_list, caches_images=caches_images
        )

    def _prompt_rows(self, split: str) -> pl.DataFrame:
        """Return the candidates of a split in random order, one row for each distinct prompt."""
        rows = self._candidates.filter(split=split)
        distinct = rows.unique(["user_id", "position", "item_id"], maintain_order=True)
        return distinct.sample(fraction=1.0, shuffle=True, seed=0)

    def _sample_calls(
        self, rows: pl.DataFrame, model: ModelSettings | None, order: PromptOrder
    ) -> tuple[list[Call], float]:
        """Return the ranker's calls for a sample of rows, and the mean length of shared prefixes.

        All prompts of an item share a prefix, which does not depend on the preference. Prompts that
        begin with the user share one that does not depend on the item.
        """
        sample = rows.sample(min(rows.height, self._settings.plan.sample), seed=0)
        counting, others = self._counting(model), self._counting(model)
        build = functools.partial(self._prompts.build, sample, self._texts, self._summaries)
        list(counting.score(build(order), CHOICES))
        changed = "other_user" if order == "item-first" else "other_item"
        list(others.score(build(order, **{changed: True}), CHOICES))
        return counting.calls, mean_shared_tokens(counting.calls, others.calls)

    def _cost(
        self, stage: str, model: ModelSettings | None, calls: Sequence[Call], *, scale: float
    ) -> StageCost:
        """Return the cost of a stage, given sampled calls and the factor to scale them by."""
        used = model or self._settings.model
        n_prompt = scale * sum(call.prompt.n_tokens for call in calls)
        n_output = scale * sum(call.n_output for call in calls)
        prices = self._settings.plan
        price = (n_prompt * prices.prompt_price + n_output * prices.output_price) / 1e6
        n_bytes = sum(_BYTES_PER_RESPONSE + call.n_characters for call in calls)
        return StageCost(
            stage,
            used.backend,
            calls=round(scale * len(calls)),
            prompt_tokens=round(n_prompt),
            image_tokens=round(scale * sum(call.prompt.n_image_tokens for call in calls)),
            longest_prompt=max((call.prompt.n_tokens for call in calls), default=0),
            images=round(scale * sum(call.prompt.n_images for call in calls)),
            largest_image=max((call.prompt.tokens_per_image for call in calls), default=0),
            output_tokens=round(n_output),
            seconds=self._rates.seconds(n_prompt, n_output),
            price=0.0 if backend_class(used).is_local else price,
            disk_bytes=round(scale * n_bytes),
            done=stage in self._finished,
        )

    def _summarize_items(self, items: pl.DataFrame, backend: Backend) -> pl.DataFrame:
        options = self._settings.summarize.arguments()
        return item_summaries.summarize(items, backend, item_type=self._item_type, **options)

    def _infer_preferences(self, histories: pl.DataFrame, backend: Backend) -> pl.DataFrame:
        """Infer preferences; items without a summary use the summary of another item."""
        summaries = self._summaries
        missing = self._items.join(summaries, on="item_id", how="anti")["item_id"]
        if not missing.is_empty() and not summaries.is_empty():
            rows = pl.Series([n % summaries.height for n in range(missing.len())])
            summaries = pl.concat([summaries, summaries[rows].with_columns(item_id=missing)])
        return preferences.infer_preferences(
            histories,
            summaries,
            backend,
            item_type=self._item_type,
            every_block=self._settings.data.train_targets != "last",
            **self._settings.infer.arguments(),
        )

    def _open(self, model: ModelSettings | None) -> contextlib.closing[CachedBackend]:
        used = model or self._settings.model
        return contextlib.closing(open_cached(used, self._run.cache, self._settings.executor))

    def _counting(
        self, model: ModelSettings | None, backend: Backend | None = None
    ) -> CountingBackend:
        return CountingBackend(
            self._counter(model or self._settings.model),
            backend=backend,
            responses=self._responses,
            language=self._item_type.language,
        )

    def _counter(self, model: ModelSettings) -> TokenCounter:
        key = model.model_dump_json()
        if key not in self._counters:
            self._counters[key] = token_counter(model.backend, model.plugin_kwargs())
        return self._counters[key]
