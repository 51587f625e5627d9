"""From score tables to means, intervals, comparisons, slices and calibration.

Third step of the evaluation (paper, section "Experiments"): every model is judged by the same
code on the same candidate rows. Values per user come first; means and intervals over users come
after, folds and seeds pooled. Everything that is averaged here can be recomputed from the tables
of the run folder: `metrics_per_user.parquet` (all metrics of all users), `cases.parquet` (what
the slices cut by) and `top/` (the lists that coverage is counted in).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import polars as pl

from mllm_msr.errors import DataError
from mllm_msr.evaluation.aggregation import (
    SEED_MARK,
    Cells,
    mean_of_runs,
    means_with_intervals,
    runs_by_model,
)
from mllm_msr.evaluation.calibration import calibration, histogram
from mllm_msr.evaluation.comparisons import COMPARED, compare_models
from mllm_msr.evaluation.exposure import coverage, exposure_names, exposure_per_user
from mllm_msr.evaluation.metrics import (
    KEYS,
    KS,
    chance,
    metric_names,
    metrics_from_ranks,
    metrics_from_scores,
    pooled_auc,
    refuse_duplicates,
)
from mllm_msr.evaluation.slices import slice_means
from mllm_msr.tables import METRICS_PER_USER, SCORES, conform

Summary = dict[str, dict[str, Cells]]


@dataclass(frozen=True, slots=True)
class Context:
    """What is known beside the scores: needed for slices and for coverage, novelty and bias.

    Attributes:
        cases: `tables.CASES`.
        popularity: `cases.item_popularity` of every fold.
        top: For each run's name a frame of `tables.TOP`, where the catalogue was ranked.
    """

    cases: pl.DataFrame
    popularity: pl.DataFrame
    top: Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation found.

    Attributes:
        per_user: `tables.METRICS_PER_USER`; users without a defined value are left out.
        summary: `{model: {negatives: {metric: {mean, low, high, n}}}}`, folds and seeds pooled;
            the content of `metrics.json`. `low` and `high` bound the 95 % percentile bootstrap
            interval over users.
        details: What is kept beside the summary, fit for JSON: `folds` (means per fold), `seeds`
            (means per seed, for models with several), `chance` (what random order earns),
            `pooled_auc`, `undefined` (users left out), `comparisons` (paired, Holm corrected
            within each negatives kind and metric), `calibration` and `histograms` of models that
            score in [0, 1]; with a context also `slices` and `exposure`
            (`{model: {metric: {mean, low, high, n}}}`, coverage without interval).
    """

    per_user: pl.DataFrame
    summary: Summary
    details: dict[str, Any]


class _Drawn(TypedDict):
    """How resamples are drawn, the same for every interval of one evaluation."""

    seed: int
    n_resamples: int
    level: float


def evaluate_scores(
    scores: Mapping[str, pl.DataFrame],
    *,
    ranks: Mapping[str, pl.DataFrame] | None = None,
    context: Context | None = None,
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Evaluation:
    """Judge models by their scores.

    Args:
        scores: For each run's name a frame of `tables.SCORES`, in any order of rows. A run is a
            model, or one seed of it where the name is "model@seed": the seeds of a model are
            judged one by one and then averaged user by user.
        ranks: For each run's name a frame of `tables.RANKS` (full-catalogue rankings), joined
            to the run's other results.
        context: What slices and exposure are computed from.
        ks: Cut-offs of the ranked metrics.
        seed: Seed of the bootstrap and of the tests.
        n_resamples: Resamples of every interval and test.
        level: Level of the intervals, in (0, 1).

    Raises:
        DataError: Nothing to judge, a row that occurs twice, or a score that is not finite; the
            message names the run.
    """
    judged = _Judged.of(scores, ranks or {}, ks=ks)
    names, models, joined = metric_names(ks), judged.models(), judged.joined()
    drawn: _Drawn = {"seed": seed, "n_resamples": n_resamples, "level": level}
    compared = [name for name in COMPARED if name in names]
    details: dict[str, Any] = {
        "level": level,
        "folds": {model: _fold_means(frame, names) for model, frame in models.items()},
        "seeds": _seed_means(judged.defined, names),
        "chance": _chance(models, ks),
        "pooled_auc": _pooled(judged.scores),
        "undefined": judged.undefined(),
        "comparisons": compare_models(models, metrics=compared, **drawn),
        "calibration": calibration(joined),
        "histograms": histogram(joined),
    }
    per_user = [_long(judged.defined, names)]
    if context is not None:
        details["slices"] = slice_means(models, context.cases, metrics=compared, **drawn)
        exposed = _exposed(context, ks)
        details["exposure"] = _exposure(exposed, context, ks, **drawn)
        per_user.append(_long(exposed, exposure_names(ks)))
    return Evaluation(
        per_user=pl.concat(per_user).filter(pl.col("value").is_not_nan()),
        summary=means_with_intervals(models, names, **drawn),
        details=details,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was scored, and the metrics of each group (one user's candidates), by run.

    Attributes:
        scores: `tables.SCORES` of the runs that scored candidates.
        groups: All metrics, a row per group, whether or not they are defined in it.
        defined: The groups that hold both labels, so that there is something to rank.
    """

    scores: Mapping[str, pl.DataFrame]
    groups: Mapping[str, pl.DataFrame]
    defined: Mapping[str, pl.DataFrame]

    @classmethod
    def of(
        cls,
        scores: Mapping[str, pl.DataFrame],
        ranks: Mapping[str, pl.DataFrame],
        *,
        ks: Sequence[int],
    ) -> _Judged:
        """Judge each run by itself; arguments as for `evaluate_scores`."""
        tables = {
            run: conform(frame, SCORES, name=f"scores/{run}") for run, frame in scores.items()
        }
        runs = [*tables, *(run for run in ranks if run not in tables)]
        groups = {run: _wide(run, tables.get(run), ranks.get(run), ks=ks) for run in runs}
        if not any(frame.height for frame in groups.values()):
            raise DataError(
                needed="at least one scored candidate",
                received=f"{len(groups)} models without any row",
                remedy="score the candidates first",
            )
        defined = {run: frame.filter(pl.col("auc").is_not_nan()) for run, frame in groups.items()}
        return cls(tables, groups, defined)

    def models(self) -> dict[str, pl.DataFrame]:
        """The metrics of each model, its seeds averaged user by user."""
        return {
            model: mean_of_runs([self.defined[run] for run in runs])
            for model, runs in runs_by_model(list(self.defined)).items()
        }

    def joined(self) -> dict[str, pl.DataFrame]:
        """The scores of each model, its seeds one after the other."""
        return {
            model: pl.concat(self.scores[run] for run in runs)
            for model, runs in runs_by_model(list(self.scores)).items()
        }

    def undefined(self) -> dict[str, int]:
        """Groups of each model that are left out."""
        return {
            model: sum(self.groups[run].height - self.defined[run].height for run in runs)
            for model, runs in runs_by_model(list(self.groups)).items()
        }


def _wide(
    run: str, scores: pl.DataFrame | None, ranks: pl.DataFrame | None, *, ks: Sequence[int]
) -> pl.DataFrame:
    """All metrics of one run: a row per group, whichever table the group came from."""
    parts = []
    if scores is not None:
        refuse_duplicates(scores, model=run)
        parts.append(metrics_from_scores(scores, model=run, ks=ks))
    if ranks is not None:
        parts.append(metrics_from_ranks(ranks, model=run, ks=ks))
    return pl.concat(parts).sort(KEYS)


def _long(wide: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    parts = [
        frame.select(*KEYS, *names)
        .unpivot(names, index=list(KEYS), variable_name="metric", value_name="value")
        .with_columns(model=pl.lit(run))
        for run, frame in wide.items()
    ]
    empty = pl.DataFrame(schema=dict(METRICS_PER_USER))
    return conform(pl.concat([empty, *parts], how="diagonal"), METRICS_PER_USER, name="per_user")


def _fold_means(wide: pl.DataFrame, names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    # Summed by numpy in a fixed order: Polars' threads would change the last digit.
    result: dict[str, dict[str, dict[str, float]]] = {}
    groups = wide.sort(KEYS).partition_by("negatives", "fold", as_dict=True)
    for (kind, fold), frame in sorted(groups.items()):
        means = frame.select(names).to_numpy().mean(axis=0)
        for name, mean in zip(names, means, strict=True):
            result.setdefault(str(kind), {}).setdefault(name, {})[str(fold)] = float(mean)
    return result


def _seed_means(wide: Mapping[str, pl.DataFrame], names: Sequence[str]) -> dict[str, Any]:
    """`{model: {negatives: {metric: {seed: mean}}}}` of the models with several seeds."""
    result: dict[str, Any] = {}
    for model, runs in runs_by_model(list(wide)).items():
        for run in runs if len(runs) > 1 else []:
            for (kind,), frame in sorted(wide[run].partition_by("negatives", as_dict=True).items()):
                means = frame.sort(KEYS).select(names).to_numpy().mean(axis=0)
                by_metric = result.setdefault(model, {}).setdefault(str(kind), {})
                for name, mean in zip(names, means, strict=True):
                    by_metric.setdefault(name, {})[run.partition(SEED_MARK)[2]] = float(mean)
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


def _pooled(tables: Mapping[str, pl.DataFrame]) -> dict[str, dict[str, float]]:
    """`{model: {negatives: pooled AUC}}`, the mean over a model's seeds."""
    found = {}
    for model, runs in runs_by_model(list(tables)).items():
        values = [pooled_auc(tables[run]) for run in runs]
        kinds = dict.fromkeys(kind for value in values for kind in value)
        found[model] = {
            kind: float(np.mean([value[kind] for value in values if kind in value]))
            for kind in kinds
        }
    return found


def _exposed(context: Context, ks: Sequence[int]) -> dict[str, pl.DataFrame]:
    """Novelty, popularity and bias of each run's lists, by user."""
    return {
        run: exposure_per_user(
            top, popularity=context.popularity, cases=context.cases, ks=ks
        ).with_columns(negatives=pl.lit("full"))
        for run, top in context.top.items()
        if top.height
    }


def _exposure(
    exposed: Mapping[str, pl.DataFrame], context: Context, ks: Sequence[int], *,
    seed: int, n_resamples: int, level: float,
) -> dict[str, Cells]:  # fmt: skip
    runs = runs_by_model(list(exposed))
    models = {m: mean_of_runs([exposed[run] for run in of_model]) for m, of_model in runs.items()}
    cells = means_with_intervals(
        models, exposure_names(ks), seed=seed, n_resamples=n_resamples, level=level
    )
    n_items = context.popularity["item_id"].n_unique()
    found: dict[str, Cells] = {}
    for model, of_model in runs.items():
        covered = [coverage(context.top[run], n_items=n_items, ks=ks) for run in of_model]
        found[model] = {
            name: {"mean": float(np.mean([values[name] for values in covered]))}
            for name in covered[0]
        } | cells[model]["full"]
    return found
