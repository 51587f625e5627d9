"""Loading of a finished run for recommendation: settings, catalog, users, retriever and models.

`MllmMsr.from_run` and the service load runs with it. The vectors of the catalog and the baseline of
the collaborative candidate generator are cached in the run folder for the next start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mllm_msr import __version__, registry, tables
from mllm_msr.baselines import _factory
from mllm_msr.config.loading import Overrides
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.config.settings import BaselinesSettings, Settings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.recommenders import Recommenders, label_of
from mllm_msr.ranker.collaborative import CollaborativeVectors, load_vectors
from mllm_msr.recommend.catalog import ItemCatalog
from mllm_msr.recommend.profiles import UserProfiles
from mllm_msr.recommend.retrieval import (
    CandidateGenerator,
    CollaborativeGenerator,
    PreferenceGenerator,
    RecentPopularityGenerator,
    Retriever,
)
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.artifact_cache import ArtifactCache, digest
from mllm_msr.storage.run_folder import RunFolder


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
        models: Factory of the ranker and the preference model.
        baselines: The scored baselines by name.
    """

    settings: Settings
    fold: int
    catalog: ItemCatalog
    users: UserProfiles
    retriever: Retriever
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
    recommenders = Recommenders(RunContext(run), settings)
    run_tables = recommenders.tables
    used_fold = run_tables.folds()[0] if fold is None else fold
    interactions = run_tables.current("interactions")
    if hide_targets:
        interactions, _ = visible_interactions(interactions, run.read("splits"), used_fold)
    artifact_cache = ArtifactCache(run.inside(layout.RETRIEVAL_CACHE))
    summaries, preferences = tables.empty(tables.SUMMARIES), tables.empty(tables.PREFERENCES)
    if settings.summarize.enabled:
        summaries = run_tables.summaries()
    if settings.infer.enabled:
        preferences = run_tables.current("preferences")
    catalog = ItemCatalog(
        run_tables.items(),
        summaries,
        encoder=settings.retrieve.encoder,
        item_type=recommenders.item_type,
        prompt=settings.recommend,
        max_text_tokens=settings.train.max_text_tokens,
        vectors=_vectors(run, settings, recommenders.weights(used_fold)),
        artifact_cache=artifact_cache,
    )

    def fit_baseline(name: str) -> Recommender:
        candidates = run_tables.candidates(used_fold).filter(pl.col("split") != "test")
        users = frozenset(interactions["user_id"].unique())
        data = TrainingData(interactions, run_tables.items(), candidates, users)
        # The run's training states belong to other data; only content vectors are shared.
        folders = _factory.Folders(run.inside(layout.CONTENT_CACHE))
        return make_baseline(settings.baselines, name, folders=folders).fit(data)

    inputs = [manifest.require(run.stages, name).sha256 for name in ("items", "candidates")]
    retriever = make_retriever(
        settings,
        catalog,
        interactions,
        fit_baseline=fit_baseline,
        inputs_digest=digest(fold=used_fold, inputs=inputs),
        artifact_cache=artifact_cache,
    )
    training = run.stages.get(f"train/{used_fold}")
    models = RunModels(
        settings.model_copy(update={"model": aligned(settings, run)}),
        weights=lambda: run.verified(recommenders.weights(used_fold)),
        base_fingerprint=training["model"] if training else None,
    )
    users = UserProfiles(interactions, preferences)
    baselines = _scored_baselines(run, recommenders, used_fold)
    return LoadedRun(settings, used_fold, catalog, users, retriever, models, baselines)


def _vectors(run: RunFolder, settings: Settings, weights: str) -> CollaborativeVectors | None:
    """Return the vectors that the ranker's prompts contain, if they do.

    Args:
        run: The run.
        settings: Its settings.
        weights: Path of the fine-tuned weights inside the run folder.
    """
    adapter = settings.model.plugin_kwargs().get("adapter")
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
    fit_baseline: Callable[[str], Recommender],
    inputs_digest: str,
    artifact_cache: ArtifactCache,
) -> Retriever:
    """Build the retriever of a run from its settings.

    Args:
        settings: The run's settings.
        catalog: The items.
        interactions: `tables.INTERACTIONS` that may be used.
        fit_baseline: Function that fits a baseline, given its name, on these interactions.
        inputs_digest: Digest of all other inputs of `fit_baseline`.
        artifact_cache: Cache for the fitted baseline.
    """
    retrieve = settings.retrieve

    def collaborative() -> CandidateGenerator:
        name = retrieve.collaborative
        if name is None:
            name = "item_knn" if "item_knn" in registry.names("baselines") else "popularity"
        key = digest(
            name=name,
            arguments=settings.baselines.arguments(name),
            members={
                member: settings.baselines.arguments(member)
                for member in _factory.member_names(name, settings.baselines.arguments(name))
            },
            version=__version__,
            interactions=interactions,
            inputs=inputs_digest,
        )
        baseline = artifact_cache.recommender(
            f"collaborative-{name}", key, _factory.baseline_class(name), lambda: fit_baseline(name)
        )
        return CollaborativeGenerator(baseline, sorted(set(interactions["item_id"])))

    factories: dict[str, Callable[[], CandidateGenerator]] = {
        "preference": lambda: PreferenceGenerator(
            catalog.encoder,
            catalog.index,
            # Without written preferences, summaries are compared with those of the history.
            n_items=0 if settings.infer.enabled else settings.recommend.history_items,
        ),
        "collaborative": collaborative,
        "recent": lambda: RecentPopularityGenerator(
            interactions, recent_share=retrieve.recent_share
        ),
    }
    return Retriever(
        {name: factories[name]() for name in retrieve.generators},
        depth=retrieve.depth,
        weights={"recent": retrieve.recent_weight},
    )
