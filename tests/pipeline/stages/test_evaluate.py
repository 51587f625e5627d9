"""Stage "evaluate": settings reach the evaluation; popularity counts visible interactions only."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.config.settings import EvaluateSettings
from mllm_msr.data.splits import SPLITS
from mllm_msr.pipeline.stages.evaluate import calibrate_scores, describe_test_users, evaluate
from mllm_msr.tables import CALIBRATION, CANDIDATES, INTERACTIONS, RANKS, SCORES, empty

INTERACTION_ROWS = [("u0", "a", 0, 0), ("u0", "b", 1, 1), ("u1", "a", 0, 0), ("u1", "c", 1, 1)]


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return interactions, splits and test targets: u0 is tested on b, u1 trains."""
    interactions = pl.DataFrame(INTERACTION_ROWS, schema=dict(INTERACTIONS), orient="row")
    splits = pl.DataFrame(
        [(0, "u0", "test"), (0, "u1", "train")], schema=dict(SPLITS), orient="row"
    )
    targets = pl.DataFrame(
        [(0, "test", "uniform", "u0", 1, "b", 1), (0, "test", "popularity", "u0", 1, "b", 1)],
        schema=dict(CANDIDATES),
        orient="row",
    )
    return interactions, splits, targets


def test_hidden_targets_do_not_count_as_popularity() -> None:
    interactions, splits, targets = tables()
    context = describe_test_users(
        interactions, splits, targets, pl.Series("item_id", ["a", "b", "c"]), folds=[0], top={}
    )
    counts = dict(context.popularity.select("item_id", "n").iter_rows())
    assert counts == {"a": 2, "b": 0, "c": 1}


def test_settings_reach_the_evaluation() -> None:
    interactions, splits, targets = tables()
    context = describe_test_users(
        interactions, splits, targets, pl.Series("item_id", ["a", "b", "c"]), folds=[0], top={}
    )
    rows = [(0, "uniform", "u0", item, int(item == "b"), score) for item, score in
            (("b", 0.9), ("c", 0.1))]  # fmt: skip
    scores = pl.DataFrame(rows, schema=dict(SCORES), orient="row")
    found = evaluate(
        {"model": scores},
        EvaluateSettings(ks=(1,), n_resamples=10),
        ranks={"model": empty(RANKS)},
        context=context,
    )
    metrics = found.summary["model"]["uniform"]
    assert metrics["auc"]["mean"] == 1.0
    assert metrics["hr@1"]["mean"] == 1.0
    assert not any(name.endswith("@5") for name in metrics)


CALIBRATIONS = pl.DataFrame([(0, 2.0, 0.0)], schema=dict(CALIBRATION), orient="row")


def test_each_fold_has_its_own_calibration() -> None:
    rows = [
        (0, "uniform", "u0", "a", 1, 0.9),
        (1, "uniform", "u1", "b", 0, 0.9),
        (0, "uniform", "u0", "c", 0, None),
    ]
    scores = pl.DataFrame(rows, schema=dict(SCORES), orient="row")
    found = calibrate_scores(scores, CALIBRATIONS).sort("item_id")
    assert found["item_id"].to_list() == ["a", "b", "c"]
    assert found["score"].to_list() == [pytest.approx(0.75), pytest.approx(0.9), None]


def test_details_have_the_reliability_before_and_after_calibration() -> None:
    interactions, splits, targets = tables()
    context = describe_test_users(
        interactions, splits, targets, pl.Series("item_id", ["a", "b", "c"]), folds=[0], top={}
    )
    rows = [(0, "uniform", "u0", item, int(item == "b"), score) for item, score in
            (("b", 0.9), ("c", 0.1))]  # fmt: skip
    scores = {"model": pl.DataFrame(rows, schema=dict(SCORES), orient="row")}
    options = {"ranks": {"model": empty(RANKS)}, "context": context}
    settings = EvaluateSettings(ks=(1,), n_resamples=10)
    plain = evaluate(scores, settings, **options)
    found = evaluate(scores, settings, **options, calibrations={"model": CALIBRATIONS})
    assert "calibrated" not in plain.details
    assert found.summary == plain.summary
    before, after = (
        found.details[key]["model"]["uniform"] for key in ("calibration", "calibrated")
    )
    assert before["ece"] == pytest.approx(0.1)
    assert after["ece"] == pytest.approx(0.25)
