"""Calibration of P(yes): temperature and bias, fitted on the lists of validation users.

A model that was trained to rank may be too sure, or too often say yes. The calibrated probability
is sigmoid(logit(P) / temperature + bias), with both parameters chosen to minimize the cross-entropy
on validation candidates, never on test users; a prior keeps them close to 1 and 0 if there are few.
As in `evaluation/calibration.py`, both classes have the same weight: 0.7 means that 70 % of such
items are positive in a set with as many positives as negatives, whatever the length of the list.
The function increases, so no ranking changes; it is applied to the P(yes) that lists show. The
parameters are stored in the folder of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.errors import DamagedFileError

_FILE: Final = "calibration.json"
# Probabilities closer to 0 or 1 have no finite logit.
_MIN: Final = 1e-12
# Standard deviation of the prior on the bias and on the logarithm of the temperature: with the 32
# validation users of the demo, an unrestricted fit follows noise. Hundreds of users outweigh it.
_PRIOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Monotone map from P(yes) to a calibrated probability.

    Attributes:
        temperature: Divisor of the logit, positive; above 1 if the model was too sure.
        bias: Added to the scaled logit; negative if the model said yes too often.
    """

    temperature: float = 1.0
    bias: float = 0.0

    def apply(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities, in [0, 1] and in the same order.

        >>> Calibration(temperature=2.0).apply([0.5, 0.9]).round(2).tolist()
        [0.5, 0.75]
        """
        from scipy.special import expit, logit  # noqa: PLC0415 - an extra

        p = np.clip(np.asarray(probabilities, dtype=np.float64), _MIN, 1 - _MIN)
        calibrated: npt.NDArray[np.float64] = expit(logit(p) / self.temperature + self.bias)
        return calibrated

    def apply_to_scores(self, scores: pl.Series) -> pl.Series:
        """Return calibrated probabilities with the name of `scores`; null stays null."""
        return pl.Series(scores.name, self.apply(scores.to_numpy()), nan_to_null=True)


# Leaves probabilities as they are.
IDENTITY: Final = Calibration()


def fit_calibration(labels: Sequence[int], probabilities: Sequence[float]) -> Calibration:
    """Fit temperature and bias by the cross-entropy, with both classes weighted equally.

    The total weight is twice the number of positives. Temperatures are positive, so that a model
    whose scores mislead does not get its order reversed.

    Args:
        labels: 0 or 1 for each validation candidate.
        probabilities: P(yes) of each.

    Returns:
        The calibration; `IDENTITY` if the candidates do not have both labels.
    """
    import scipy  # noqa: PLC0415 - an extra

    y = np.asarray(labels, dtype=np.float64)
    n_positives = y.sum()
    if not 0 < n_positives < len(y):
        return IDENTITY
    x = scipy.special.logit(np.clip(np.asarray(probabilities, dtype=np.float64), _MIN, 1 - _MIN))
    weights = np.where(y == 1, 1.0, n_positives / (len(y) - n_positives))

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        scale, bias = np.exp(parameters[0]), parameters[1]
        z = scale * x + bias
        # log(1 + exp(z)) - y z, and its derivative.
        error = weights * (scipy.special.expit(z) - y)
        value = (weights * (np.logaddexp(0, z) - y * z)).sum()
        value += (parameters**2).sum() / (2 * _PRIOR**2)
        slope = np.array([scale * (error * x).sum(), error.sum()]) + parameters / _PRIOR**2
        return float(value), slope

    found = scipy.optimize.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B")
    return Calibration(temperature=float(np.exp(-found.x[0])), bias=float(found.x[1]))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Write a calibration into the folder of the weights."""
    text = json.dumps(asdict(calibration), indent=1)
    (folder / _FILE).write_text(text + "\n", encoding="utf-8")


def read_calibration(folder: Path) -> Calibration:
    """Return the calibration in a folder of weights, `IDENTITY` if it has none.

    Raises:
        DamagedFileError: The file cannot be read.
    """
    file = folder / _FILE
    if not file.is_file():
        return IDENTITY
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = Calibration(float(values["temperature"]), float(values["bias"]))
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise DamagedFileError(f"{file} cannot be read ({cause}). Restore the folder.") from cause
    if not (found.temperature > 0 and np.isfinite([found.temperature, found.bias]).all()):
        raise DamagedFileError(f"{file} has no valid temperature and bias. Restore the folder.")
    return found
