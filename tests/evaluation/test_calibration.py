"""Reliability by hand, and only for models whose scores are probabilities."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mllm_msr.evaluation.calibration import calibration, histogram, reliability


def scores(values, labels):
    return pl.DataFrame({"negatives": "uniform", "label": labels, "score": values})


def test_perfect_probabilities_have_no_error():
    assert reliability([1, 0, 0], [1.0, 0.0, 0.0])["ece"] == 0.0


def test_classes_have_equal_weight_for_any_number_of_negatives():
    # At 0.8: half of the weight of the positives and a quarter of that of the negatives.
    labels, values = [1, 1, 0, 0, 0, 0], [0.8, 0.2, 0.8, 0.2, 0.2, 0.2]
    found = reliability(labels, values)
    low, high = found["bins"]
    assert high["observed"] == pytest.approx(0.25 / (0.25 + 0.125))
    assert low["observed"] == pytest.approx(0.25 / (0.25 + 0.375))
    assert found["ece"] == pytest.approx(0.375 * (0.8 - 2 / 3) + 0.625 * (0.4 - 0.2))
    assert (low["n"], high["n"]) == (4, 2)


def test_calibrated_scores_have_a_small_error():
    rng = np.random.default_rng(0)
    p = rng.random(20000)
    found = reliability(rng.random(20000) < p, p)
    assert found["ece"] < 0.02
    assert sum(row["weight"] for row in found["bins"]) == pytest.approx(1.0)


def test_one_class_has_no_calibration():
    found = reliability([0, 0], [0.1, 0.2])
    assert found == {"ece": None, "bins": []}


def test_only_scores_in_the_unit_interval_count_as_probabilities():
    tables = {"yes": scores([0.0, 1.0], [0, 1]), "counts": scores([0.0, 17.0], [0, 1])}
    assert list(calibration(tables)) == ["yes"]
    shares = histogram(tables, n_bins=4)
    assert list(shares) == ["yes"]
    assert shares["yes"]["uniform"] == {"positives": [0, 0, 0, 1], "negatives": [1, 0, 0, 0]}


def test_candidates_without_a_score_are_left_out():
    table = scores([0.9, 0.2, None], [1, 0, 0])
    assert calibration({"a": table}) == calibration({"a": table[:2]})
    assert histogram({"a": table}) == histogram({"a": table[:2]})
    assert calibration({"a": table[2:]}) == {}
