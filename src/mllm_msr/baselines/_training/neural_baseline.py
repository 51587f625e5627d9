"""Base class of all baselines with a network: training settings, their checks, and training.

Two families derive from it: `_sequences/sequence_baseline.py`, whose networks encode a history as
a vector, and `_content/content_baseline.py`, whose networks use content vectors. A family defines
the training data and how candidates are scored; a baseline of the family defines its network in one
file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

from torch import Tensor, nn

from mllm_msr.baselines._shared.state import unfitted
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import Histories
from mllm_msr.baselines._training.options import (
    LoopOptions,
    Precision,
    Validate,
    changed_fields,
)
from mllm_msr.baselines._training.sampling import effective_batch_size
from mllm_msr.baselines._training.train import TrainingLog, train
from mllm_msr.errors import SettingsError, TrainingError
from mllm_msr.evaluation.report.run_status import TIME_LIMITED
from mllm_msr.interfaces import Recommender
from mllm_msr.ranker.training.display import TrainingProgress, hide_progress
from mllm_msr.types import Seed

F = TypeVar("F")

# Settings that are paths; they do not change the trained weights.
_PATHS: Final = ("content_cache", "checkpoints")


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Batches and loss of a training run.

    Attributes:
        batches: Returns the batches of an epoch, counted from 0; depends only on the epoch.
        loss: Returns the mean loss of a batch.
        data: What the weights depend on besides settings and histories, as bytes.
    """

    batches: Callable[[int], Sequence[Any]]
    loss: Callable[[Any], Tensor]
    data: bytes = b""


@dataclass(kw_only=True, eq=False)
class NeuralBaseline(Recommender, Generic[F]):
    """Recommender with a network that `train.train` trains; `F` is the type of the fitted model.

    Attributes:
        batch_size: Examples per optimizer step, at least 1; `None` for `default_batch_size`, or
            less for small data.
        epochs: Upper bound on the passes over the data, at least 1.
        learning_rate: Constant learning rate of AdamW, above 0.
        weight_decay: Weight decay of AdamW, at least 0.
        early_stopping_patience: Validations without improvement before training stops.
        validate_every: Epochs between validations, at least 1.
        max_minutes: Minutes after which training stops; `None` sets no limit.
        precision: Precision of training: "bf16", "fp32", or "auto", which selects "bf16" if the
            processor supports it. Candidates are always scored in float32.
        checkpoints: Folder of the training states, from which a killed `fit` resumes; `None`
            saves none.
        seed: Seed of weights, data order, dropout and negatives.
        training_progress: Display of the epochs, see `ShowsTraining`.
        default_batch_size: Examples per optimizer step for tens of thousands of users.

    Raises:
        SettingsError: A value is out of range.
    """

    default_batch_size: ClassVar[int] = 256
    batch_size: int | None = None
    epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    early_stopping_patience: int = 5
    validate_every: int = 1
    max_minutes: float | None = None
    precision: Precision = "auto"
    checkpoints: Path | None = None
    seed: Seed = 0
    training_progress: TrainingProgress = field(
        default_factory=lambda: hide_progress, init=False, repr=False
    )
    _fitted: F | None = field(default=None, init=False, repr=False)
    _log: TrainingLog | None = field(default=None, init=False, repr=False)
    _is_time_limited: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check all settings and report all problems at once."""
        problems = [
            *self._loop_options().problems(),
            *too_small(self, "batch_size"),
            *self.family_problems(),
            *self.own_problems(),
        ]
        if problems:
            raise SettingsError(problems)

    @abstractmethod
    def family_problems(self) -> list[str]:
        """Return one sentence for each setting of the family that is out of range."""

    @abstractmethod
    def own_problems(self) -> list[str]:
        """Return one sentence for each setting of the baseline itself that is out of range."""

    @property
    def training_log(self) -> TrainingLog | None:
        """Return the result of training; `None` before `fit` and after `load`."""
        return self._log

    def usage(self) -> dict[str, int]:
        """Return `{TIME_LIMITED: 1}` if the time limit ended training, also after `load`."""
        return {TIME_LIMITED: 1} if self._is_time_limited else {}

    def effective_batch_size(self, n_examples: int) -> int:
        """Return the examples per optimizer step for an epoch of `n_examples` examples."""
        return effective_batch_size(self.batch_size, n_examples, default=self.default_batch_size)

    def _train(
        self, network: nn.Module, spec: TrainingSpec, *, validate: Validate | None, data: str
    ) -> None:
        """Train a network; `data` is a hash of its training data."""
        settings = {k: v for k, v in changed_fields(self).items() if k not in _PATHS}
        self._log = train(
            network,
            spec.batches,
            loss=spec.loss,
            validate=validate,
            options=self._loop_options(),
            folder=self.checkpoints,
            fingerprint={"settings": settings, "data": data},
            show=self.training_progress,
        )
        self._is_time_limited = self._log.is_time_limited

    def _require_fitted(self) -> F:
        """Return the fitted model.

        Raises:
            TrainingError: Neither `fit` nor `load` has been called.
        """
        if self._fitted is None:
            raise unfitted(type(self).__module__.rpartition(".")[2])
        return self._fitted

    def _settings(self) -> dict[str, Any]:
        """Return the constructor arguments except paths."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.init and each.name not in _PATHS
        }

    def _loop_options(self) -> LoopOptions:
        """Return the options of the training loop; options without a setting keep their default."""
        own = {each.name for each in fields(self)}
        names = [each.name for each in fields(LoopOptions) if each.name in own]
        return LoopOptions(**{name: getattr(self, name) for name in names})


def require_two_interactions(histories: Histories) -> None:
    """Check that at least one history has a next item to predict.

    Args:
        histories: Interactions of each user.

    Raises:
        TrainingError: No user has two interactions.
    """
    if not (histories.lengths > 1).any():
        raise TrainingError(
            f"No user has two interactions ({len(histories.items)} in total). Add data, or "
            "lower data.min_user_interactions and data.min_item_interactions."
        )
