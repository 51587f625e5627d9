"""A run's generators of candidates: its settings and tables become a `Retriever`.

Between the run folder and `recommend/recommender.py`. The collaborative generator is any baseline, fitted on
everything that may be seen; it is kept for the next start under what it was made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import polars as pl

from mllm_msr import __version__, registry
from mllm_msr.baselines import _factory
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.pipeline.context import Workspace
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.retrieval import (
    CollaborativeSource,
    PopularSource,
    PreferenceSource,
    Retriever,
    CandidateGenerator,
)
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.artifact_cache import ArtifactCache, digest


def make_retriever(
    work: Workspace,
    catalogue: Catalogue,
    interactions: pl.DataFrame,
    *,
    fold: int,
    artifact_cache: ArtifactCache,
) -> Retriever:
    """The retriever of a run.

    Args:
        work: The run.
        catalogue: Its items, with vectors.
        interactions: `tables.INTERACTIONS` that may be seen.
        fold: Fold whose candidates baselines may learn from.
        artifact_cache: Where the fitted baseline is kept.
    """
    settings = work.settings.retrieve
    makers: dict[str, Callable[[], CandidateGenerator]] = {
        "preference": lambda: PreferenceSource(catalogue.encoder, catalogue.index),
        "collaborative": lambda: CollaborativeSource(
            _collaborative(work, interactions, fold, artifact_cache),
            sorted(set(interactions["item_id"])),
        ),
        "recent": lambda: PopularSource(interactions, recent_share=settings.recent_share),
    }
    return Retriever(
        {name: makers[name]() for name in settings.generators},
        depth=settings.depth,
        weights={"recent": settings.recent_weight},
    )


def _collaborative(
    work: Workspace, interactions: pl.DataFrame, fold: int, artifact_cache: ArtifactCache
) -> Recommender:
    """A baseline under the run's settings, fitted on everything that may be seen."""
    known = registry.names("baselines")
    chosen = work.settings.retrieve.collaborative
    name = chosen or ("item_knn" if "item_knn" in known else "popularity")
    arguments = work.settings.baselines.arguments(name)

    def fit() -> Recommender:
        data = TrainingData(
            interactions=interactions,
            items=work.items(),
            candidates=work.candidates(fold).filter(pl.col("split") != "test"),
            train_users=frozenset(interactions["user_id"].unique()),
        )
        places = _factory.Places(work.run.inside(layout.CONTENT_CACHE))
        return _factory.make(name, arguments, places=places).fit(data)

    read = {
        part: manifest.require(work.run.stages, part).sha256 for part in ("items", "candidates")
    }
    key = digest(
        name=name,
        arguments=arguments,
        version=__version__,
        fold=fold,
        interactions=interactions,
        **read,
    )
    kind = cast("type[Recommender]", registry.find("baselines", name))
    return artifact_cache.recommender(f"collaborative-{name}", key, kind, fit)
