"""From score tables to means, intervals, comparisons and calibration.

Third step of the evaluation (paper, section "Experiments"): every model is judged by the same
code on the same candidate rows. Values per user come first; means and intervals over users come
after, folds pooled.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.calibration import calibration, histogram
from mllm_msr.evaluation.metrics import (
    KEYS,
    KS,
    chance,
    metric_names,
    metrics_from_ranks,
    metrics_from_scores,
)
from mllm_msr.evaluation.significance import Comparison, bootstrap_interval, compare, holm
from mllm_msr.tables import CANDIDATES, METRICS_PER_USER, SCORES, conform

log = logging.getLogger(__name__)

Summary = dict[str, dict[str, dict[str, dict[str, float]]]]

ROW: Final = ["fold", "negatives", "user_id", "item_id"]
COMPARED: Final = ("auc", "hr@5", "mrr@5", "ndcg@5")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        per_user: `tables.METRICS_PER_USER`; users without a defined value are left out.
        summary: `{model: {negatives: {metric: {mean, low, high, n}}}}`, folds pooled; the content
            of `metrics.json`. `low` and `high` bound the 95 % bootstrap interval over users.
        details: What is kept beside the summary, fit for JSON: `folds` (means per fold), `chance`
            (what random order earns), `undefined` (users left out), `comparisons` (paired, Holm
            corrected within each negatives kind and metric), `calibration` and `histograms` of
            models that score in [0, 1].
    """

    per_user: pl.DataFrame
    summary: Summary
    details: dict[str, Any]


def evaluate_scores(
    scores: Mapping[str, pl.DataFrame],
    *,
    ranks: Mapping[str, pl.DataFrame] | None = None,
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Evaluation:
    """Judge models by their scores.

    Args:
        scores: For each model's name a frame of `tables.SCORES`, in any order of rows.
        ranks: For each model's name a frame of `tables.RANKS` (full-catalogue rankings), joined
            to the model's other results.
        ks: Cut-offs of the ranked metrics.
        seed: Seed of the bootstrap and of the tests.
        n_resamples: Resamples of every interval and test.
        level: Level of the intervals, in (0, 1).

    Raises:
        DataError: Nothing to judge, a row that occurs twice, or a score that is not finite; the
            message names the model.
    """
    ranks = ranks or {}
    tables = {name: conform(frame, SCORES, name=f"scores/{name}") for name, frame in scores.items()}
    models = [*tables, *(name for name in ranks if name not in tables)]
    wide = {model: _wide(model, tables.get(model), ranks.get(model), ks=ks) for model in models}
    if not any(frame.height for frame in wide.values()):
        raise DataError(
            needed="at least one scored candidate",
            received=f"{len(wide)} models without any row",
            remedy="score the candidates first",
        )
    names = metric_names(ks)
    defined = {model: frame.filter(pl.col("auc").is_not_nan()) for model, frame in wide.items()}
    return Evaluation(
        per_user=_long(defined, names),
        summary={
            model: _summarise(frame, names, seed=seed, n_resamples=n_resamples, level=level)
            for model, frame in defined.items()
        },
        details={
            "level": level,
            "folds": {model: _fold_means(frame, names) for model, frame in defined.items()},
            "chance": _chance(defined, ks),
            "undefined": {model: wide[model].height - defined[model].height for model in wide},
            "comparisons": compare_models(
                defined, metrics=[name for name in COMPARED if name in names], seed=seed,
                n_resamples=n_resamples, level=level,
            ),
            "calibration": calibration(tables),
            "histograms": histogram(tables),
        },
    )  # fmt: skip


def compare_models(
    wide: Mapping[str, pl.DataFrame],
    *,
    metrics: Sequence[str],
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Paired comparisons of every two models on their common users.

    Args:
        wide: For each model a frame with `KEYS` and one column per metric, without NaN.
        metrics: Metrics to compare.
        seed: Seed of the tests.
        n_resamples: Resamples of each test.
        level: Level of the interval of the difference.

    Returns:
        One record per negatives kind, metric and pair: `first`, `second`, `difference`, `low`,
        `high`, `better`, `worse`, `n`, `p` and `p_holm`.
    """
    records: list[dict[str, Any]] = []
    for kind in sorted(set().union(*(frame["negatives"].unique() for frame in wide.values()))):
        users = {
            model: _by_user(frame.filter(pl.col("negatives") == kind), metrics)
            for model, frame in wide.items()
        }
        # Pairs with the same users are compared at once: their resamples are the same.
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for first, second in itertools.combinations(users, 2):
            common = users[first].join(users[second], on="user_id", how="semi")["user_id"]
            if common.len():
                groups.setdefault(tuple(common), []).append((first, second))
        for common_users, pairs in groups.items():
            shared = pl.Series("user_id", common_users)
            rows = {
                m: f.filter(pl.col("user_id").is_in(shared.implode())) for m, f in users.items()
            }
            ours, theirs = (
                np.hstack([rows[pair[side]].select(metrics).to_numpy() for pair in pairs])
                for side in (0, 1)
            )
            result = compare(ours, theirs, seed=seed, n_resamples=n_resamples, level=level)
            records += [
                _record(result, at, kind=kind, metric=metric, first=first, second=second)
                for at, ((first, second), metric) in enumerate(itertools.product(pairs, metrics))
            ]
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        families.setdefault((record["negatives"], record["metric"]), []).append(record)
    for family in families.values():
        corrected = holm([record["p"] for record in family])
        for record, value in zip(family, corrected, strict=True):
            record["p_holm"] = float(value)
    return records


def _record(
    result: Comparison, at: int, *, kind: str, metric: str, first: str, second: str
) -> dict[str, Any]:
    """One column of a comparison as a record that fits JSON."""
    return {
        "negatives": kind,
        "metric": metric,
        "first": first,
        "second": second,
        "difference": float(result.difference[at]),
        "low": float(result.low[at]),
        "high": float(result.high[at]),
        "better": float(result.better[at]),
        "worse": float(result.worse[at]),
        "n": result.n_users,
        "p": float(result.p_value[at]),
    }


def evaluate_foreign(
    candidates_path: Path,
    scores_path: Path,
    *,
    model: str = "scores",
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
) -> Evaluation:
    """Judge any table of scores, ours or not, against a run's test candidates.

    Args:
        candidates_path: Parquet or CSV with the columns of `tables.CANDIDATES`.
        scores_path: Parquet or CSV with `fold`, `negatives`, `user_id`, `item_id` and `score`;
            rows of training and validation candidates are left out.
        model: Name of the scores in the result.
        ks: Cut-offs of the ranked metrics.
        seed: Seed of the bootstrap.
        n_resamples: Resamples of the intervals.

    Raises:
        DataError: A file or column cannot be read, or the rows do not match the test candidates
            one to one; the message counts them and shows the first.
    """
    candidates = conform(_read(candidates_path), CANDIDATES, name=candidates_path.name)
    schema = {**{name: SCORES[name] for name in ROW}, "score": SCORES["score"]}
    scores = conform(_read(scores_path), schema, name=scores_path.name)
    test = candidates.filter(pl.col("split") == "test")
    others = candidates.filter(pl.col("split") != "test").join(test, on=ROW, how="anti")
    left_out = scores.join(others, on=ROW, how="semi").height
    if left_out:
        log.info("%d scores of training and validation rows left out", left_out)
        scores = scores.join(others, on=ROW, how="anti")
    _refuse_duplicates(scores, model=model)
    _refuse(
        scores.join(test, on=ROW, how="anti").select(ROW),
        needed="only rows that are candidates",
        what="unknown",
        remedy="take (fold, negatives, user_id, item_id) from the candidates file",
    )
    _refuse(
        test.join(scores, on=ROW, how="anti").select(ROW),
        needed=f"a score for each of the {test.height} test candidates",
        what="missing",
        remedy="score every candidate, the easy ones too",
    )
    joined = test.join(scores, on=ROW, how="inner", validate="1:1")
    return evaluate_scores({model: joined}, ks=ks, seed=seed, n_resamples=n_resamples)


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix in {".csv", ".tsv"}:
            return pl.read_csv(
                path,
                separator="\t" if path.suffix == ".tsv" else ",",
                schema_overrides={"user_id": pl.String, "item_id": pl.String},
            )
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise DataError(
            needed=f"a readable Parquet or CSV file at {path}",
            received=str(cause).splitlines()[0],
            remedy="check the path and write the file again",
        ) from cause


def _refuse(rows: pl.DataFrame, *, needed: str, what: str, remedy: str) -> None:
    if rows.height:
        example = dict(zip(rows.columns, rows.sort(rows.columns).row(0), strict=True))
        raise DataError(
            needed=needed, received=f"{rows.height} {what}, such as {example}", remedy=remedy
        )


def _refuse_duplicates(frame: pl.DataFrame, *, model: str) -> None:
    rows = frame.select(ROW)
    if rows.n_unique() != rows.height:
        _refuse(
            rows.filter(rows.is_duplicated()),
            needed=f"each (fold, negatives, user_id, item_id) once in the scores of {model!r}",
            what="duplicate rows",
            remedy="keep one score for each",
        )


def _wide(
    model: str, scores: pl.DataFrame | None, ranks: pl.DataFrame | None, *, ks: Sequence[int]
) -> pl.DataFrame:
    """All metrics of one model: a row per group, whichever table the group came from."""
    parts = []
    if scores is not None:
        _refuse_duplicates(scores, model=model)
        parts.append(metrics_from_scores(scores, model=model, ks=ks))
    if ranks is not None:
        parts.append(metrics_from_ranks(ranks, model=model, ks=ks))
    return pl.concat(parts).sort(KEYS)


def _long(wide: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    parts = [
        frame.select(*KEYS, *names)
        .unpivot(names, index=list(KEYS), variable_name="metric", value_name="value")
        .with_columns(model=pl.lit(model))
        for model, frame in wide.items()
    ]
    return conform(pl.concat(parts), METRICS_PER_USER, name="metrics_per_user")


def _summarise(
    wide: pl.DataFrame, names: Sequence[str], *, seed: int, n_resamples: int, level: float
) -> dict[str, dict[str, dict[str, float]]]:
    summary = {}
    for (kind,), frame in sorted(wide.group_by("negatives"), key=lambda group: str(group[0])):
        users = _by_user(frame, names)
        values = users.select(names).to_numpy()
        low, high = bootstrap_interval(values, seed=seed, n_resamples=n_resamples, level=level)
        means = values.mean(axis=0)
        summary[str(kind)] = {
            name: {
                "mean": float(means[at]),
                "low": float(low[at]),
                "high": float(high[at]),
                "n": users.height,
            }
            for at, name in enumerate(names)
        }
    return summary


def _by_user(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """One row per user, sorted: a user who was tested in several folds is still one user."""
    return frame.group_by("user_id").agg(pl.col(columns).mean()).sort("user_id")


def _fold_means(wide: pl.DataFrame, names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    # Summed by numpy in a fixed order: Polars' threads would change the last digit.
    result: dict[str, dict[str, dict[str, float]]] = {}
    groups = wide.sort(KEYS).partition_by("negatives", "fold", as_dict=True)
    for (kind, fold), frame in sorted(groups.items()):
        means = frame.select(names).to_numpy().mean(axis=0)
        for name, mean in zip(names, means, strict=True):
            result.setdefault(str(kind), {}).setdefault(name, {})[str(fold)] = float(mean)
    return result


def _chance(wide: Mapping[str, pl.DataFrame], ks: Sequence[int]) -> dict[str, dict[str, float]]:
    counts = pl.concat(frame.select(*KEYS, "n_negatives") for frame in wide.values())
    return {
        str(kind): dict(chance(frame["n_negatives"].to_numpy(), ks=ks))
        for (kind,), frame in sorted(
            counts.unique().sort(KEYS).group_by("negatives", maintain_order=True),
            key=lambda group: str(group[0]),
        )
    }
