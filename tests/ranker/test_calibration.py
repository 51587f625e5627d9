"""Temperature and bias: they recover known distortions and never change a ranking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit

from mllm_msr.errors import DamagedFileError
from mllm_msr.evaluation.calibration import reliability
from mllm_msr.ranker.calibration import (
    IDENTITY,
    Calibration,
    fit_calibration,
    read_calibration,
    write_calibration,
)


def lists(n: int = 4000, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, 1 in 21 positive, and probabilities that are calibrated for equal classes."""
    noise = np.random.default_rng(seed)
    labels = (np.arange(n * 21) % 21 == 0).astype(int)
    # Normal logits with unit variance and means +-0.5 have a log ratio of densities equal to x.
    return labels, expit(noise.normal(size=n * 21) + np.where(labels == 1, 0.5, -0.5))


@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (4.0, -1.0), (0.5, 2.0)])
def test_a_known_distortion_is_undone(temperature: float, bias: float) -> None:
    labels, calibrated = lists()
    distorted = expit((logit(calibrated) - bias) * temperature)
    found = fit_calibration(labels.tolist(), distorted.tolist())
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert found.bias == pytest.approx(bias, abs=0.08)
    test_labels, test = lists(seed=1)
    before = expit((logit(test) - bias) * temperature)
    after = found.apply(before)
    assert reliability(test_labels, after)["ece"] < 0.02
    assert np.array_equal(np.argsort(after, kind="stable"), np.argsort(before, kind="stable"))


def test_scores_that_mislead_do_not_reverse_the_ranking() -> None:
    labels, calibrated = lists(200)
    found = fit_calibration(labels.tolist(), (1 - calibrated).tolist())
    assert found.temperature > 2
    assert np.all(np.diff(found.apply(np.linspace(0, 1, 50))[1:-1]) > 0)


def test_few_users_keep_the_parameters_close_to_the_identity() -> None:
    labels, calibrated = lists(4000)
    distorted = expit(logit(calibrated) * 4 + 2)
    temperatures = [
        fit_calibration(labels[:n].tolist(), distorted[:n].tolist()).temperature
        for n in (21, 21 * 20, 21 * 4000)
    ]
    assert 1 < temperatures[0] < temperatures[1] < temperatures[2]
    assert temperatures[2] == pytest.approx(4, rel=0.08)


def test_certain_scores_stay_finite() -> None:
    found = fit_calibration([1, 0, 1, 0], [1.0, 0.0, 1.0, 1.0])
    assert np.isfinite([found.temperature, found.bias]).all()
    assert np.all((found.apply([0.0, 1.0]) >= 0) & (found.apply([0.0, 1.0]) <= 1))


def test_one_class_gives_the_identity() -> None:
    assert fit_calibration([0, 0], [0.1, 0.9]) == IDENTITY
    assert fit_calibration([], []) == IDENTITY
    values = [0.0, 0.2, 0.9, 1.0]
    assert IDENTITY.apply(values) == pytest.approx(values, abs=1e-11)


def test_parameters_are_stored_with_the_weights(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == IDENTITY
    write_calibration(tmp_path, Calibration(2.5, -0.25))
    assert read_calibration(tmp_path) == Calibration(2.5, -0.25)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"temperature": 0, "bias": 0}', '{"temperature": 1, "bias": NaN}']
)
def test_damaged_parameters_are_reported(content: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"calibration\.json"):
        read_calibration(tmp_path)


def test_missing_scores_stay_missing() -> None:
    scores = pl.Series("score", [0.9, None, 0.5])
    found = Calibration(temperature=2.0).apply_to_scores(scores)
    assert (found.name, found.dtype) == ("score", pl.Float64)
    assert found.round(2).to_list() == [0.75, None, 0.5]
    assert IDENTITY.apply_to_scores(pl.Series("score", [None], dtype=pl.Float64)).to_list() == [
        None
    ]
