"""Stage "score": every model scores the same test candidates, and ranks the whole catalogue.

Recommenders that score the catalogue at once rank it for every test user; the others, asked one
candidate at a time, for a sample of them (`score.full_users`, `score.full_users_mllm`).

A recommender that joins others (`hybrid`) also gets what the MLLM makes of them: for this the
MLLM scores validation candidates too, into `validation/NAME`, from which weights are learnt.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, cast

import polars as pl

from mllm_msr import registry, tables
from mllm_msr.data.full_ranking import full_candidates, sample_targets
from mllm_msr.evaluation.ranking import Ranking, rank_catalogue, rank_scores
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.interfaces import Backend, CatalogScorer, Joiner, Recommender, TrainingData
from mllm_msr.pipeline.context import Workspace, usage
from mllm_msr.ranker.scoring import ScoreCounts, score_examples
from mllm_msr.storage.layout import BASELINE_STATES
from mllm_msr.storage.run_folder import Stage

_UNTUNED: Final = "zero_shot"
_TUNED: Final = "mllm_msr"


def run(work: Workspace) -> None:
    """Score with the MLLM, untuned and tuned, and with the baselines."""
    for name in _mllms(work):
        _score_mllm(work, name)
    for name in work.settings.score.baselines:
        _score_baseline(work, name)
    shutil.rmtree(work.run.inside(BASELINE_STATES), ignore_errors=True)


def _mllms(work: Workspace) -> list[str]:
    """The MLLM recommenders that the settings ask for."""
    asked = [_UNTUNED] if work.settings.score.zero_shot else []
    return [*asked, _TUNED] if work.settings.train.enabled else asked


def _score_mllm(work: Workspace, name: str) -> None:
    """Score test candidates with the MLLM in every fold, before or after fine-tuning."""
    full_users = work.settings.score.full_users_mllm
    conditions = {"full_users_mllm": full_users}
    with _mllm_stage(work, f"score/{name}", conditions, model=name) as stage:
        if stage.finished:
            return
        scores, rankings, counts = [], [], Counter[str]()
        for fold in work.folds():
            with _mllm(work, name, fold) as backend:
                test = _rows(work, fold, "test")
                frame, asked = _ask(work, name, test, backend)
                scores.append(frame)
                for block in _full(work, test, full_users):
                    answers, _ = _ask(work, f"{name} full", block, backend)
                    rankings.append(rank_scores(answers, model=name))
                failures = {"failed": asked.failed, "upper_bound": asked.upper_bound}
                counts.update(failures | usage(backend))
        _write_scores(stage, name, scores, rankings)
        stage.count(**counts)


def _validate_mllm(work: Workspace, name: str) -> None:
    """Score validation candidates with the MLLM in every fold: `validation/NAME`."""
    with _mllm_stage(work, f"validation/{name}", {}, model=name) as stage:
        if stage.finished:
            return
        scores, counts = [], Counter[str]()
        for fold in work.folds():
            with _mllm(work, name, fold) as backend:
                rows = _rows(work, fold, "validation")
                frame, asked = _ask(work, f"{name} validation", rows, backend)
                scores.append(frame)
                counts.update({"failed": asked.failed} | usage(backend))
        stage.write(f"validation/{name}", pl.concat(scores))
        stage.count(scores=sum(frame.height for frame in scores), **counts)


def _mllm_stage(
    work: Workspace, stage: str, conditions: Mapping[str, object], *, model: str
) -> AbstractContextManager[Stage]:
    """A stage that asks the MLLM about candidates, under all that its answers depend on."""
    adapters = [work.adapter(fold) for fold in work.folds()] if model == _TUNED else []
    with work.backend(work.settings.score.model) as backend:
        fingerprint = backend.fingerprint
    return work.stage(
        stage,
        {**conditions, "max_text_tokens": work.settings.train.max_text_tokens},
        inputs=["interactions", "items", "summaries", "preferences", "candidates", *adapters],
        prompt_templates=["recommend"],
        model=fingerprint,
    )


def _mllm(work: Workspace, name: str, fold: int) -> AbstractContextManager[CachedBackend]:
    """The MLLM, as one fold fine-tuned it or as it came."""
    adapter = work.run.folder / work.adapter(fold) if name == _TUNED else None
    return work.backend(work.settings.score.model, adapter=adapter)


def _rows(work: Workspace, fold: int, split: str) -> pl.DataFrame:
    return work.candidates(fold).filter(pl.col("split") == split)


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


def _score_baseline(work: Workspace, name: str) -> None:
    """Fit and score a baseline in every fold."""
    n_full, baselines = work.settings.score.full_users, work.settings.baselines
    arguments = baselines.arguments(name)
    conditions = {"full_users": n_full, **{f"{name}.{key}": arguments[key] for key in arguments}}
    inputs = ["interactions", "items", "splits", "candidates"]
    if baselines.content != "all":
        conditions["content"] = baselines.content
        inputs += ["summaries"] if baselines.content == "image_summary" else []
    asks = cast("type[Recommender]", registry.find("baselines", name)).requires_llm
    if (joined := _joined(work, name)) or asks:
        conditions["full_users_mllm"] = work.settings.score.full_users_mllm
    if joined:
        inputs += [f"{table}/{other}" for table in ("validation", "scores") for other in joined]
    with work.stage(f"score/{name}", conditions, inputs=inputs) as stage:
        if stage.finished:
            return
        scores: list[pl.DataFrame] = []
        rankings: list[Ranking] = []
        for fold in work.folds():
            data, test = work.training_data(fold), _rows(work, fold, "test")
            model = work.baseline(name, fold)
            if isinstance(model, Joiner) and joined:
                model.join({other: _told(work, other, fold) for other in joined})
            model.fit(data)
            scores.append(model.score(test, data.interactions))
            rankings += _rank(work, name, test, model=model, data=data, joined=bool(joined))
        _write_scores(stage, name, scores, rankings)


def _joined(work: Workspace, name: str) -> list[str]:
    """The MLLMs that a baseline joins: those that have scored, now on validation users too."""
    if not issubclass(registry.find("baselines", name), Joiner):
        return []
    joined: list[str] = [
        other for other in work.settings.score.joined if work.run.has(f"scores/{other}")
    ]
    for other in joined:
        if other not in _mllms(work):
            _score_mllm(work, other)  # finished; refused where it would be another model by now
        _validate_mllm(work, other)
    return joined


def _told(work: Workspace, name: str, fold: int) -> pl.DataFrame:
    """All that an MLLM has said in a fold, of the full catalogue too where it was asked."""
    tables = (work.run.read(f"{table}/{name}") for table in ("validation", "scores"))
    told = [table.filter(pl.col("fold") == fold) for table in tables]
    if n_users := work.settings.score.full_users_mllm:
        with _mllm(work, name, fold) as backend:  # it was asked before: the response cache answers
            test = _rows(work, fold, "test")
            told += [_ask(work, name, block, backend)[0] for block in _full(work, test, n_users)]
    return pl.concat(told)


def _rank(
    work: Workspace,
    name: str,
    test: pl.DataFrame,
    *,
    model: Recommender,
    data: TrainingData,
    joined: bool,
) -> Iterator[Ranking]:
    """Rank the catalogue for all test users where that is one product, else for a sample."""
    visible, settings = data.interactions, work.settings.score
    # Who joins an MLLM knows no more candidates than were put to the MLLM; who asks one pays.
    costly = joined or model.requires_llm
    n_users = settings.full_users_mllm if costly else settings.full_users
    if joined or not isinstance(model, CatalogScorer):
        for block in _full(work, test, n_users):
            yield rank_scores(model.score(block, visible), model=name)
    elif n_users:
        targets = sample_targets(test, test.height)
        yield rank_catalogue(
            model.score_catalog(targets.select("user_id", "position"), visible),
            targets,
            catalogue=model.catalog,
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
