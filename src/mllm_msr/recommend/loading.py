"""Loading of a finished run for recommendation: settings, catalog, users, retriever and models.

`MllmMsr.from_run` and the service load runs with it. The vectors of the catalog and the baseline of
the collaborative candidate generators are cached in the run folder for the next start.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr import __version__, registry, tables
from mllm_msr.baselines import _factory
from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.loading import Overrides, given_settings
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.config.settings import BaselinesSettings, Settings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.interfaces import Recommender
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.context import RunContext, changed
from mllm_msr.pipeline.recommenders import Recommenders, label_of
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.stage_settings import require_finished_settings
from mllm_msr.ranker.collaborative import CollaborativeVectors, load_vectors
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.list_weights import ListPlan, choose_plan
from mllm_msr.recommend.profiles import UserProfiles
from mllm_msr.recommend.rank_fusion import Weight
from mllm_msr.recommend.retrieval import (
    GENERATOR_FAILURES,
    CandidateGenerator,
    CollaborativeGenerator,
    PreferenceGenerator,
    RecentPopularityGenerator,
    Retriever,
    require_one,
    warn_of_failure,
)
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Groups of settings that only stages and estimates read.
_NOT_READ: Final = frozenset({"evaluate", "executor", "plan", "report"})


@dataclass(frozen=True, slots=True)
class ScoredBaseline:
    """Baseline that the run has scored and that calls no language model.

    Attributes:
        label: Its label in tables.
        version: Twelve hexadecimal digits that identify its scores.
        fitted: Function that loads it from the run's cache, or fits it again if it is not there.
    """

    label: str
    version: str
    fitted: Callable[[], Recommender]


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """Parts of a run that recommendation uses.

    Attributes:
        settings: The run's settings.
        fold: Fold of the fine-tuned weights.
        catalog: The items.
        users: Profiles of the run's users.
        retriever: The candidate generators.
        plan: How lists are made.
        models: Factory of the ranker and the preference model.
        baselines: The scored baselines by name.
    """

    settings: Settings
    fold: int
    catalog: ItemCatalog
    users: UserProfiles
    retriever: Retriever
    plan: ListPlan
    models: RunModels
    baselines: Mapping[str, ScoredBaseline]


def load_run(
    path: Path,
    *,
    overrides: Overrides = (),
    fold: int | None = None,
    hide_targets: bool = False,
) -> LoadedRun:
    """Load a run, see `MllmMsr.from_run`."""
    settings = load_finished_settings(path, overrides)
    run = RunFolder.open(path, read_only=True)
    require_finished_settings(RunContext(run), settings)
    for group in sorted(_NOT_READ.intersection(given_settings(overrides))):
        logger.warning("Settings of the group %s have no effect on recommendations.", group)
    fold = RunTables(run).fold(fold)
    plan = choose_plan(run, settings, fold)
    return load_parts(run, settings, plan, fold=fold, hide_targets=hide_targets)


def load_parts(
    run: RunFolder, settings: Settings, plan: ListPlan, *, fold: int, hide_targets: bool
) -> LoadedRun:
    """Load the parts of an open run folder.

    Args:
        run: The run.
        settings: Its settings.
        plan: How lists are made.
        fold: Fold of the fine-tuned weights.
        hide_targets: Whether to hide the targets of the fold; then no generator may fail.

    Raises:
        RunFolderError: A required stage has not been run; the message names it.
        BackendError: All candidate generators fail.
    """
    recommenders = Recommenders(RunContext(run), settings)
    run_tables = recommenders.tables
    interactions, preferences = _visible(
        run_tables, run, settings, hidden=fold if hide_targets else None
    )
    artifact_cache = ArtifactCache(run.inside(layout.RETRIEVAL_CACHE))
    summaries = tables.empty(tables.SUMMARIES)
    if settings.summarize.enabled:
        summaries = run_tables.summaries()
    catalog = ItemCatalog(
        run_tables.items(),
        summaries,
        encoder=settings.retrieve.encoder,
        item_type=recommenders.item_type,
        prompt=settings.recommend,
        max_text_tokens=settings.train.max_text_tokens,
        vectors=_vectors(run, settings, recommenders.weights(fold)),
        artifact_cache=artifact_cache,
    )

    def fitted(name: str) -> Recommender:
        if hide_targets and not recommenders.members(name):
            return recommenders.fitted(name, fold)  # the one that the run scores
        return _fitted_on_everything(
            name, recommenders, run, settings=settings, interactions=interactions, fold=fold
        )

    retriever = make_retriever(
        settings,
        catalog,
        interactions,
        fitted=fitted,
        weights=plan.generator_weights(settings.retrieve.recent_weight),
        requires_all=hide_targets,
    )
    training = run.stages.get(f"train/{fold}")
    models = RunModels(
        settings.model_copy(update={"model": aligned(settings, run)}),
        weights=lambda: run.verified(recommenders.weights(fold)),
        base_fingerprint=training["model"] if training else None,
    )
    users = UserProfiles(interactions, preferences)
    baselines = _scored_baselines(run, recommenders, fold)
    return LoadedRun(settings, fold, catalog, users, retriever, plan, models, baselines)


def _visible(
    run_tables: RunTables, run: RunFolder, settings: Settings, *, hidden: int | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the interactions and preferences of a run; there may be no preferences.

    Args:
        run_tables: Tables of the run.
        run: The run.
        settings: Its settings.
        hidden: Fold whose targets are hidden, with all that `update` has added; None hides nothing.
    """
    if hidden is None:
        interactions = run_tables.current("interactions")
    else:
        before = run_tables.interactions()
        interactions, _ = visible_interactions(before, run.read("splits"), hidden)
    if not settings.infer.enabled:
        return interactions, tables.empty(tables.PREFERENCES)
    return interactions, (
        run_tables.current("preferences") if hidden is None else run_tables.preferences()
    )


def _vectors(run: RunFolder, settings: Settings, weights: str) -> CollaborativeVectors | None:
    """Return the vectors that the ranker's prompts contain, if they do.

    Args:
        run: The run.
        settings: Its settings.
        weights: Path of the fine-tuned weights inside the run folder.
    """
    adapter = (settings.score.model or settings.model).plugin_kwargs().get("adapter")
    if settings.recommend.reads_vectors and settings.train.enabled:
        adapter = run.verified(weights)
    return load_vectors(adapter, settings.recommend)


def _scored_baselines(
    run: RunFolder, recommenders: Recommenders, fold: int
) -> dict[str, ScoredBaseline]:
    """Return the baselines with scores in the run, without ensembles and those that call an LLM."""
    baselines: dict[str, ScoredBaseline] = {}
    for name in registry.names("baselines"):
        scores = manifest.find(run.stages, f"{layout.SCORES}/{name}")
        if scores is None or recommenders.requires_llm(name) or recommenders.members(name):
            continue
        baselines[name] = ScoredBaseline(
            label=label_of(name),
            version=scores.sha256[:12],
            fitted=functools.partial(recommenders.fitted, name, fold),
        )
    return baselines


def _fitted_on_everything(
    name: str,
    recommenders: Recommenders,
    run: RunFolder,
    *,
    settings: Settings,
    interactions: pl.DataFrame,
    fold: int,
) -> Recommender:
    """Return a baseline from the cache of the run, or fit it on `interactions` and store it."""
    arguments = settings.baselines.arguments(name)
    members = _factory.member_names(name, arguments)
    key = digest(
        name=name,
        arguments=arguments,
        members={member: settings.baselines.arguments(member) for member in members},
        version=__version__,
        interactions=interactions,
        fold=fold,
        inputs={
            table: manifest.require(run.stages, table).sha256
            for table in recommenders.baseline_inputs(name, [fold])
        },
        **changed(settings.baselines, "baselines.", include=["content"]),
    )

    def fit() -> Recommender:
        data = replace(
            recommenders.training_data(name, fold),
            interactions=interactions,
            train_users=frozenset(interactions["user_id"].unique()),
        )
        # The run's training states belong to other data; only content vectors are shared.
        folders = _factory.Folders(run.inside(layout.CONTENT_CACHE))
        return make_baseline(settings.baselines, name, folders=folders).fit(data)

    cache = ArtifactCache(run.inside(layout.RETRIEVAL_CACHE))
    return cache.recommender(f"collaborative-{name}", key, _factory.baseline_class(name), fit)


def make_baseline(
    settings: BaselinesSettings, name: str, *, folders: _factory.Folders
) -> Recommender:
    """Return an unfitted baseline; members of an ensemble have the settings of their sections."""
    arguments = settings.arguments(name)
    if members := _factory.member_names(name, arguments):
        made = {member: make_baseline(settings, member, folders=folders) for member in members}
        arguments["members"] = made
    return _factory.make(name, arguments, folders=folders)


def make_retriever(
    settings: Settings,
    catalog: ItemCatalog,
    interactions: pl.DataFrame,
    *,
    fitted: Callable[[str], Recommender],
    weights: Mapping[str, Weight],
    requires_all: bool = False,
) -> Retriever:
    """Build the retriever of a run from its settings.

    A candidate generator that fails is left out, with a warning.

    Args:
        settings: The run's settings.
        catalog: The items.
        interactions: `tables.INTERACTIONS` that may be used.
        fitted: Function that returns a baseline, given its name, fitted on these interactions.
        weights: Weights of the generators.
        requires_all: Whether the failure of a generator is an error.

    Raises:
        BackendError: All candidate generators fail.
    """
    retrieve = settings.retrieve
    item_ids = sorted(set(interactions["item_id"]))
    factories: dict[str, Callable[[], CandidateGenerator]] = {
        "preference": lambda: PreferenceGenerator(
            catalog.encoder,
            catalog.index,
            # Without written preferences, summaries are compared with those of the history.
            n_items=0 if settings.infer.enabled else settings.recommend.history_items,
        ),
        "recent": lambda: RecentPopularityGenerator(
            interactions, recent_share=retrieve.recent_share
        ),
    }
    generators: dict[str, CandidateGenerator] = {}
    failures: dict[str, Exception] = {}
    for name, baseline in candidate_generators(settings).items():
        try:
            if baseline is None:
                generators[name] = factories[name]()
            else:
                generators[name] = CollaborativeGenerator(fitted(baseline), item_ids)
        except GENERATOR_FAILURES as error:
            if requires_all:
                raise
            failures[name] = error
            warn_of_failure(name, error)
    require_one(generators, failures)
    # An id alone says nothing to the user of a list.
    hidden = catalog.blank if len(catalog.blank) < len(catalog) else frozenset[str]()
    return Retriever(generators, depth=retrieve.depth, weights=weights, hidden=hidden)
