"""Stage "score": every model scores the same test candidates, and ranks the whole catalogue.

Recommenders that score the catalogue at once rank it for every test user; the others, asked one
candidate at a time, for a sample of them (`score.full_users`, `score.full_users_mllm`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import polars as pl

from mllm_msr import registry, tables
from mllm_msr.data.catalogue import full_candidates, sample_targets
from mllm_msr.evaluation.ranking import Ranking, rank_catalogue, rank_scores
from mllm_msr.interfaces import Backend, CatalogueScorer, Recommender
from mllm_msr.recommender.scorer import ScoreCounts, score_examples
from mllm_msr.store import Stage
from mllm_msr.workspace import Workspace, usage


def run(work: Workspace) -> None:
    """Score with the MLLM, untuned and tuned, and with the rivals."""
    if work.settings.score.zero_shot:
        _score_mllm(work, "zero_shot", tuned=False)
    if work.settings.train.enabled:
        _score_mllm(work, "mllm_msr", tuned=True)
    for name in work.settings.score.rivals:
        _score_rival(work, name)


def _score_mllm(work: Workspace, name: str, *, tuned: bool) -> None:
    """Score with the MLLM in every fold, before or after fine-tuning."""
    adapters = [work.adapter(fold) for fold in work.folds()] if tuned else []
    conditions = {
        "full_users_mllm": work.settings.score.full_users_mllm,
        "max_text_tokens": work.settings.train.max_text_tokens,
    }
    engine = work.settings.score.model
    with work.backend(engine) as backend:
        model = backend.identity
    inputs = ["interactions", "items", "summaries", "preferences", "candidates", *adapters]
    with work.stage(
        f"score/{name}", conditions, inputs=inputs, templates=["recommend"], model=model
    ) as stage:
        if stage.finished:
            return
        scores, rankings, counts = [], [], Counter[str]()
        for fold in work.folds():
            adapter = work.run.folder / work.adapter(fold) if tuned else None
            test = work.candidates(fold).filter(pl.col("split") == "test")
            with work.backend(engine, adapter=adapter) as backend:
                frame, asked = _ask(work, name, test, backend)
                scores.append(frame)
                for block in _full(work, test, work.settings.score.full_users_mllm):
                    answers, _ = _ask(work, f"{name} full", block, backend)
                    rankings.append(rank_scores(answers, model=name))
                failures = {"failed": asked.failed, "bounded": asked.bounded}
                counts.update(failures | usage(backend))
        _write_scores(stage, name, scores, rankings)
        stage.count(**counts)


def _ask(
    work: Workspace, name: str, candidates: pl.DataFrame, backend: Backend
) -> tuple[pl.DataFrame, ScoreCounts]:
    with work.progress(name, candidates.height) as advance:
        return score_examples(
            work.examples(candidates),
            backend,
            max_error_rate=work.settings.score.max_error_rate,
            progress=advance,
        )


def _full(work: Workspace, test: pl.DataFrame, n_users: int) -> Iterator[pl.DataFrame]:
    """The whole catalogue as candidates of a sample of test users."""
    targets = sample_targets(test, n_users, seed=work.settings.data.seed)
    items = work.run.read("items")["item_id"]
    return full_candidates(targets, work.run.read("interactions"), items)


def _score_rival(work: Workspace, name: str) -> None:
    """Fit and score a baseline in every fold."""
    n_full, rivals = work.settings.score.full_users, work.settings.rivals
    arguments = rivals.arguments(name)
    conditions = {"full_users": n_full, **{f"{name}.{key}": arguments[key] for key in arguments}}
    inputs = ["interactions", "items", "splits", "candidates"]
    if rivals.content != "all":
        conditions["content"] = rivals.content
        inputs += ["summaries"] if rivals.content == "image_summary" else []
    with work.stage(f"score/{name}", conditions, inputs=inputs) as stage:
        if stage.finished:
            return
        scores: list[pl.DataFrame] = []
        rankings: list[Ranking] = []
        for fold in work.folds():
            data = work.training_data(fold)
            model = cast("Recommender", registry.find("baselines", name)(**arguments)).fit(data)
            test = work.candidates(fold).filter(pl.col("split") == "test")
            scores.append(model.score(test, data.interactions))
            if n_full:
                rankings += _rank(work, name, test, model=model, visible=data.interactions)
        _write_scores(stage, name, scores, rankings)


def _rank(
    work: Workspace, name: str, test: pl.DataFrame, *, model: Recommender, visible: pl.DataFrame
) -> Iterator[Ranking]:
    """Rank the catalogue for all test users where that is one product, else for a sample."""
    if not isinstance(model, CatalogueScorer):
        for block in _full(work, test, work.settings.score.full_users):
            yield rank_scores(model.score(block, visible), model=name)
        return
    targets = sample_targets(test, test.height)
    yield rank_catalogue(
        model.score_catalogue(targets.select("user_id", "position"), visible),
        targets,
        catalogue=model.catalogue,
        interactions=visible,
        model=name,
    )


def _write_scores(
    stage: Stage, name: str, scores: Sequence[pl.DataFrame], rankings: Sequence[Ranking]
) -> None:
    frame = pl.concat(tables.conform(part, tables.SCORES, name=name) for part in scores)
    full = pl.concat([tables.empty(tables.RANKS), *(ranking.ranks for ranking in rankings)])
    top = pl.concat([tables.empty(tables.TOP), *(ranking.top for ranking in rankings)])
    stage.write(f"scores/{name}", frame)
    stage.write(f"ranks/{name}", full)
    stage.write(f"top/{name}", top)
    stage.count(scores=frame.height, full_users=full.height)
