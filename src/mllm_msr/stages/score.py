"""Stage "score": every model scores the same test candidates, and some users' whole catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import polars as pl

from mllm_msr import registry, tables
from mllm_msr.data.catalogue import full_candidates, sample_targets
from mllm_msr.data.splits import visible_interactions
from mllm_msr.evaluation.metrics import rank_counts
from mllm_msr.interfaces import Backend, Recommender, TrainingData
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
    with work.backend() as backend:
        model = backend.identity
    inputs = ["interactions", "items", "summaries", "preferences", "candidates", *adapters]
    with work.stage(
        f"score/{name}", conditions, inputs=inputs, templates=["recommend"], model=model
    ) as stage:
        if stage.finished:
            return
        scores, ranks, counts = [], [], Counter[str]()
        for fold in work.folds():
            adapter = work.run.folder / work.adapter(fold) if tuned else None
            test = work.candidates(fold).filter(pl.col("split") == "test")
            with work.backend(adapter=adapter) as backend:
                frame, asked = _ask(work, name, test, backend)
                scores.append(frame)
                for block in _full(work, test, work.settings.score.full_users_mllm):
                    answers, _ = _ask(work, f"{name} full", block, backend)
                    ranks.append(rank_counts(answers, model=name))
                counts.update({"failed": asked.failed, **usage(backend)})
        _write_scores(stage, name, scores, ranks)
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
    n_full = work.settings.score.full_users
    inputs = ["interactions", "items", "splits", "candidates"]
    with work.stage(f"score/{name}", {"full_users": n_full}, inputs=inputs) as stage:
        if stage.finished:
            return
        scores, ranks = [], []
        for fold in work.folds():
            rows = work.candidates(fold)
            visible, train_users = visible_interactions(
                work.run.read("interactions"), work.run.read("splits"), fold
            )
            data = TrainingData(
                interactions=visible,
                items=work.items(),
                candidates=rows.filter(pl.col("split") != "test"),
                train_users=train_users,
            )
            model = cast("Recommender", registry.find("baselines", name)()).fit(data)
            test = rows.filter(pl.col("split") == "test")
            scores.append(model.score(test, visible))
            ranks += [
                rank_counts(model.score(block, visible), model=name)
                for block in _full(work, test, n_full)
            ]
        _write_scores(stage, name, scores, ranks)


def _write_scores(
    stage: Stage, name: str, scores: Sequence[pl.DataFrame], ranks: Sequence[pl.DataFrame]
) -> None:
    frame = pl.concat(tables.conform(part, tables.SCORES, name=name) for part in scores)
    full = pl.concat([tables.empty(tables.RANKS), *ranks])
    stage.write(f"scores/{name}", frame)
    stage.write(f"ranks/{name}", full)
    stage.count(scores=frame.height, full_users=full.height)
