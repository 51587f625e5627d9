"""Evaluation of score tables: means, intervals, comparisons, slices and calibration.

Third step of the evaluation (paper, section "Experiments"). The same code evaluates every model
on the same candidate rows. Values per user are computed first; means and intervals over users pool
the folds and seeds. Every mean can be recomputed from the tables of the run folder:
`metrics_per_user.parquet` (all metrics of all users), `target_profiles.parquet` (the slices) and
`top/` (the recommended lists, for coverage).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import polars as pl

from mllm_msr.errors import DataError, UsageError
from mllm_msr.evaluation.aggregation import (
    Cells,
    fold_means,
    mean_of_runs,
    means_with_intervals,
    runs_by_model,
    seed_means,
)
from mllm_msr.evaluation.calibration import calibration, histogram
from mllm_msr.evaluation.comparisons import MAIN, compare_models
from mllm_msr.evaluation.exposure import exposure_by_run, exposure_means, exposure_names
from mllm_msr.evaluation.metrics import KS, metric_names, summary_names
from mllm_msr.evaluation.per_user import chance_by_kind, metrics_from_ranks, metrics_from_scores
from mllm_msr.evaluation.pooled_auc import pooled_auc_by_model
from mllm_msr.evaluation.score_checks import KEYS, check_unique_rows
from mllm_msr.evaluation.slices import slice_means
from mllm_msr.tables import METRICS_PER_USER, SCORES, Frame, conform

Summary = dict[str, dict[str, Cells]]


@dataclass(frozen=True, slots=True)
class Context:
    """Profiles of users and items for slices and exposure metrics.

    Attributes:
        profiles: `tables.TARGET_PROFILES`.
        popularity: `target_profiles.item_popularity` of every fold.
        top: `tables.TOP` by run, for runs that ranked the full catalog.
    """

    profiles: pl.DataFrame
    popularity: pl.DataFrame
    top: Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of one evaluation.

    Attributes:
        per_user: `tables.METRICS_PER_USER`; undefined values are left out.
        summary: `{model: {negatives: {metric: {mean, low, high, n}}}}`, folds and seeds pooled;
            the content of `metrics.json`. `low` and `high` bound the 95 % percentile bootstrap
            interval over users.
        details: Further results as JSON values: `folds` (means per fold), `seeds` (means per
            seed, for models with several), `chance` (means of a random order), `pooled_auc`,
            `undefined` (number of lists left out), `unscored` (number of candidates that a model
            could not score; they rank last), `comparisons` (paired, see
            `comparisons.compare_models`), `calibration` and `histograms` of models with
            scores in [0, 1]. With a context, also `slices` and `exposure`
            (`{model: {metric: {mean, low, high, n}}}`, coverage without an interval).
    """

    per_user: pl.DataFrame
    summary: Summary
    details: dict[str, Any]


class _Resampling(TypedDict):
    """Arguments of the bootstrap, shared by all intervals of an evaluation."""

    seed: int
    n_resamples: int
    level: float


def evaluate_scores(
    scores: Mapping[str, Frame],
    *,
    ranks: Mapping[str, pl.DataFrame] | None = None,
    context: Context | None = None,
    main: str | None = MAIN,
    ks: Sequence[int] = KS,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Evaluation:
    """Evaluate models on their score tables.

    Args:
        scores: `tables.SCORES` by run, as frames of Polars or pandas. A run is a model, or one seed
            of it if its name is "model@seed"; a user's values are averaged over the seeds.
        ranks: `tables.RANKS` by run (full-catalog rankings), added to the run's results.
        context: Profiles for slices and exposure metrics; None leaves these out.
        main: The model whose comparisons with each other model are a family of tests.
        ks: Cut-offs of the metrics.
        seed: Seed of the bootstrap and of the tests.
        n_resamples: Number of resamples of every interval and test.
        level: Level of the intervals, in (0, 1).

    Raises:
        DataError: There are no rows, a row occurs twice, a score is not finite, or no list of a
            run has both labels, so that no metric is defined. The message names the run.
        SettingsError: A cut-off is below 1.
    """
    if not isinstance(scores, Mapping):
        raise UsageError(
            f"The scores are of type {type(scores).__name__}. Pass a mapping from the name of each "
            'model to its table, such as {"my_model": table}.'
        )
    runs = _ScoredRuns.evaluate(scores, ranks or {}, ks=(ks := tuple(dict.fromkeys(ks))))
    names, models, scores_of_models = metric_names(ks), runs.models(), runs.scores_of_models()
    resampling: _Resampling = {"seed": seed, "n_resamples": n_resamples, "level": level}
    compared = [name for name in summary_names() if name in names]
    details: dict[str, Any] = {
        "level": level,
        "folds": {model: fold_means(frame, names) for model, frame in models.items()},
        "seeds": seed_means(runs.defined, names),
        "chance": chance_by_kind(models, ks=ks),
        "pooled_auc": pooled_auc_by_model(runs.scores),
        "undefined": runs.n_undefined(),
        "unscored": runs.n_unscored(),
        "comparisons": compare_models(models, metrics=compared, main=main, **resampling),
        "calibration": calibration(scores_of_models),
        "histograms": histogram(scores_of_models),
    }
    per_user = [_long(runs.defined, names)]
    if context is not None:
        details["slices"] = slice_means(models, context.profiles, metrics=compared, **resampling)
        exposure, details["exposure"] = _exposure(context, ks, resampling)
        per_user.append(_long(exposure, exposure_names(ks)))
    return Evaluation(
        per_user=pl.concat(per_user).filter(pl.col("value").is_not_nan()),
        summary=means_with_intervals(models, names, **resampling),
        details=details,
    )


def _exposure(
    context: Context, ks: Sequence[int], resampling: _Resampling
) -> tuple[dict[str, pl.DataFrame], dict[str, Any]]:
    """Return the exposure metrics of each run per user, and their means."""
    exposure = exposure_by_run(
        context.top, popularity=context.popularity, profiles=context.profiles, ks=ks
    )
    n_items = context.popularity["item_id"].n_unique()
    return exposure, exposure_means(exposure, context.top, n_items=n_items, ks=ks, **resampling)


@dataclass(frozen=True, slots=True)
class _ScoredRuns:
    """Scores of all runs, and the metrics of each list (the candidates of one user).

    Attributes:
        scores: `tables.SCORES` of the runs that scored candidates.
        lists: All metrics by run, one row per list, NaN where undefined.
        defined: The lists with both labels, for which the metrics are defined.
    """

    scores: Mapping[str, pl.DataFrame]
    lists: Mapping[str, pl.DataFrame]
    defined: Mapping[str, pl.DataFrame]

    @classmethod
    def evaluate(
        cls,
        scores: Mapping[str, Frame],
        ranks: Mapping[str, pl.DataFrame],
        *,
        ks: Sequence[int],
    ) -> _ScoredRuns:
        """Compute the metrics of each run; arguments as for `evaluate_scores`."""
        tables = {
            run: conform(frame, SCORES, name=f"scores/{run}") for run, frame in scores.items()
        }
        lists = {}
        for run in (*tables, *(run for run in ranks if run not in tables)):
            parts = []
            if run in tables:
                check_unique_rows(tables[run], model=run)
                parts.append(metrics_from_scores(tables[run], model=run, ks=ks))
            if run in ranks:
                parts.append(metrics_from_ranks(ranks[run], model=run, ks=ks))
            lists[run] = pl.concat(parts).sort(KEYS)
        if not any(frame.height for frame in lists.values()):
            raise DataError(
                f"None of the {len(lists)} models has a scored candidate. Score the candidates "
                "first."
            )
        both_labels = (pl.col("n_positives") > 0) & (pl.col("n_negatives") > 0)
        defined = {run: frame.filter(both_labels) for run, frame in lists.items()}
        for run, frame in defined.items():
            if lists[run].height and not frame.height:
                raise _undefined_error(run, lists[run])
        return cls(tables, lists, defined)

    def models(self) -> dict[str, pl.DataFrame]:
        """Return the metrics of each model, averaged over its seeds for each user."""
        return {
            model: mean_of_runs([self.defined[run] for run in runs])
            for model, runs in runs_by_model(list(self.defined)).items()
        }

    def scores_of_models(self) -> dict[str, pl.DataFrame]:
        """Return the scores of each model, concatenated over its seeds."""
        return {
            model: pl.concat(self.scores[run] for run in runs)
            for model, runs in runs_by_model(list(self.scores)).items()
        }

    def n_unscored(self) -> dict[str, int]:
        """Count the candidates of each model without a score."""
        return {
            model: frame["score"].null_count() for model, frame in self.scores_of_models().items()
        }

    def n_undefined(self) -> dict[str, int]:
        """Count the lists of each model that are left out of the means."""
        return {
            model: sum(self.lists[run].height - self.defined[run].height for run in runs)
            for model, runs in runs_by_model(list(self.lists)).items()
        }


def _undefined_error(run: str, lists: pl.DataFrame) -> DataError:
    """Return the error about a run without a list for which the metrics are defined."""
    n_negative = lists.filter(pl.col("n_positives") == 0).height
    return DataError(
        f"No metric of {run!r} is defined, because none of its {lists.height} lists has a positive "
        f"and a negative: {n_negative} have only label 0, {lists.height - n_negative} only label 1."
        " The candidates of one user need at least one row with label 1 and one with label 0."
    )


def _long(wide: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """Reshape frames with one column per metric to `tables.METRICS_PER_USER`."""
    parts = [
        frame.select(*KEYS, *names)
        .unpivot(names, index=list(KEYS), variable_name="metric", value_name="value")
        .with_columns(model=pl.lit(run))
        for run, frame in wide.items()
    ]
    empty = pl.DataFrame(schema=dict(METRICS_PER_USER))
    return conform(pl.concat([empty, *parts], how="diagonal"), METRICS_PER_USER, name="per_user")
