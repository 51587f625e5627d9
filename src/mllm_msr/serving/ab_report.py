"""Report of an A/B test: outcomes per variant, and differences with intervals.

It reads the service's database, also while the service is running.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy  # loads its modules on first use
import sqlalchemy as sql

from mllm_msr.errors import DataError, RunFolderError
from mllm_msr.serving.database import parse_url
from mllm_msr.serving.exposures import read_experiments, read_outcomes

_LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """Value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VariantResult:
    """Outcomes of a variant.

    Attributes:
        users: Number of users who got at least one list.
        shown: Number of distinct items per user that were shown, summed over users.
        interactions: Number of these items that the user interacted with afterwards.
        converted: Number of users with at least one such interaction.
        conversion: Share of converted users, with Wilson's interval.
        per_user: Mean number of interactions per user, with a bootstrap interval.
    """

    users: int
    shown: int
    interactions: int
    converted: int
    conversion: Estimate
    per_user: Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """Second variant minus the first one.

    Attributes:
        first: Name of a variant.
        second: Name of another one.
        conversion: Difference of the shares of converted users, with Newcombe's interval.
        per_user: Difference of the means, with a bootstrap interval.
    """

    first: str
    second: str
    conversion: Estimate
    per_user: Estimate


@dataclass(frozen=True, slots=True)
class AbReport:
    """Report of a test.

    Attributes:
        experiment: Name of the test.
        variants: Results by variant, sorted by name.
        differences: Differences of all pairs of variants.
        excluded: Number of users who got lists of several variants, because the variants or their
            shares were changed during the test; they are left out.
    """

    experiment: str
    variants: Mapping[str, VariantResult]
    differences: tuple[Difference, ...]
    excluded: int


def ab_report(database: str, *, experiment: str | None = None, seed: int = 0) -> AbReport:
    """Evaluate an A/B test.

    Args:
        database: URL of the service's database, as `serve.state`.
        experiment: Name of the test; may be None if the database has only one.
        seed: Seed of the bootstrap.

    Raises:
        RunFolderError: There is no such database, or it cannot be read.
        DataError: There is no such test, or it has fewer than two variants with users.
    """
    with _reading(database) as connection:
        known = read_experiments(connection)
        if experiment is None and len(known) == 1:
            experiment = known[0]
        if experiment not in known:
            names = ", ".join(known) or "none"
            problem = f"There is no test {experiment!r}" if experiment else "Several tests or none"
            raise DataError(f"{problem} in the service's database. Known tests: {names}.")
        outcomes = read_outcomes(connection, experiment)
    return evaluate_outcomes(experiment, outcomes, seed=seed)


def evaluate_outcomes(experiment: str, outcomes: pl.DataFrame, *, seed: int = 0) -> AbReport:
    """Compute the report from the outcomes of the users.

    Args:
        experiment: Name of the test.
        outcomes: `exposures.OUTCOMES`.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Fewer than two variants have users.
    """
    n_variants = pl.col("variant").n_unique().over("user_id")
    kept = outcomes.filter(n_variants == 1)
    excluded = outcomes.filter(n_variants > 1)["user_id"].n_unique()
    groups = {name: rows for (name,), rows in kept.sort("variant").group_by(
        "variant", maintain_order=True)}  # fmt: skip
    if len(groups) < 2:
        raise DataError(
            f"Only {len(groups)} variants of the test {experiment!r} have users. Wait for requests "
            "of users of the others."
        )
    values = {
        name: rows["interactions"].to_numpy().astype(np.float64) for name, rows in groups.items()
    }
    return AbReport(
        experiment,
        {
            str(name): VariantResult(
                users=rows.height,
                shown=int(rows["shown"].sum()),
                interactions=int(values[name].sum()),
                converted=int((values[name] > 0).sum()),
                conversion=_share(values[name] > 0),
                per_user=_bootstrap(values[name], seed=seed),
            )
            for name, rows in groups.items()
        },
        tuple(
            Difference(
                str(first),
                str(second),
                _difference(_share(values[first] > 0), _share(values[second] > 0)),
                _bootstrap(values[first], values[second], seed=seed),
            )
            for first, second in combinations(groups, 2)
        ),
        excluded,
    )


def _share(successes: npt.NDArray[np.bool_]) -> Estimate:
    """Return a share with Wilson's interval."""
    n, k = len(successes), int(successes.sum())
    ends = scipy.stats.binomtest(k, n).proportion_ci(_LEVEL, method="wilson")
    return Estimate(k / n, float(ends.low), float(ends.high))


def _difference(first: Estimate, second: Estimate) -> Estimate:
    """Return the difference of two shares with Newcombe's interval.

    R. G. Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), method 10: it combines the distances to Wilson's limits.
    """
    difference = second.value - first.value
    below = np.hypot(second.value - second.low, first.high - first.value)
    above = np.hypot(second.high - second.value, first.value - first.low)
    return Estimate(difference, float(difference - below), float(difference + above))


def _bootstrap(*samples: npt.NDArray[np.float64], seed: int) -> Estimate:
    """Return a mean, or the difference of the means of two samples, with a bootstrap interval."""

    def mean_or_difference(*drawn: Any, axis: int = -1) -> Any:
        means = [np.mean(one, axis=axis) for one in drawn]
        return means[-1] - means[0] if len(means) == 2 else means[0]

    value = float(mean_or_difference(*samples))
    if all(np.ptp(one) == 0 for one in samples):  # every resample is the same
        return Estimate(value, value, value)
    found = scipy.stats.bootstrap(
        samples,
        mean_or_difference,
        confidence_level=_LEVEL,
        method="percentile",
        n_resamples=2000,
        batch=200,
        rng=np.random.default_rng(seed),
    )
    ends = found.confidence_interval
    return Estimate(value, float(ends.low), float(ends.high))


@contextmanager
def _reading(database: str) -> Iterator[sql.Connection]:
    """Open the service's database for reading, without its lock."""
    url = parse_url(database)
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database)).absolute()
        if not path.is_file():
            raise RunFolderError(
                f"There is no database {path}. Serve the run first, or give serve.state."
            )
        address = f"file:{quote(str(path))}?mode=ro"
        engine = sql.create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True))
    else:
        engine = sql.create_engine(url, hide_parameters=True)
    try:
        with closing(engine.connect()) as connection:
            yield connection
    except sql.exc.SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise RunFolderError(f"The service's database cannot be read: {cause}.") from error
    finally:
        engine.dispose()
