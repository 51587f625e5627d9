"""What every baseline with a network has: settings of training, their check, and the training.

Two families stand on it: `_sequences/next_item.py`, whose networks turn a history into a vector,
and `_content/baseline.py`, whose networks read content vectors. A family says what is learnt from and
how scores come about; a baseline of it brings its network, in one file.
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
from mllm_msr.baselines._training.sampling import step_size
from mllm_msr.baselines._training.train import Judge, LoopOptions, Precision, TrainingLog, train
from mllm_msr.errors import SettingsError, TrainingError
from mllm_msr.interfaces import Recommender

F = TypeVar("F")

# Where things lie; they change nothing about what is learnt.
_PLACES: Final = ("content_cache", "checkpoints")


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """What a network is trained on.

    Attributes:
        batches: The batches of an epoch, 0 the first; a function of the epoch alone.
        loss: Mean loss of a batch.
    """

    batches: Callable[[int], Sequence[Any]]
    loss: Callable[[Any], Tensor]


@dataclass(kw_only=True, eq=False)
class TrainedRecommender(Recommender, Generic[F]):
    """A recommender whose weights `train.train` finds; `F` is what it scores with.

    Attributes:
        batch_size: Examples per optimiser step, at least 1; None for `usual_step`, or fewer in
            small data.
        epochs: This and the settings of the same names as in `LoopOptions` mean the same.
        learning_rate: As `LoopOptions.learning_rate`.
        weight_decay: As `LoopOptions.weight_decay`.
        early_stopping_patience: As `LoopOptions.early_stopping_patience`.
        validate_every: As `LoopOptions.validate_every`.
        max_minutes: As `LoopOptions.max_minutes`.
        precision: As `LoopOptions.precision`; scores are always taken in float32.
        checkpoints: Folder from which a killed `fit` goes on; None keeps no states.
        seed: Seed of weights, order, dropout and negatives.
        usual_step: Examples per optimiser step that suit tens of thousands of users.

    Raises:
        SettingsError: A value is out of its range.
    """

    usual_step: ClassVar[int] = 256
    batch_size: int | None = None
    epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    early_stopping_patience: int = 5
    validate_every: int = 1
    max_minutes: float = 60.0
    precision: Precision = "auto"
    checkpoints: Path | None = None
    seed: int = 0
    _fitted: F | None = field(default=None, init=False, repr=False)
    _log: TrainingLog | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the settings, all at once."""
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
        """One sentence for each setting of the family that is out of its range."""

    @abstractmethod
    def own_problems(self) -> list[str]:
        """One sentence for each setting of the baseline itself that is out of its range."""

    @property
    def training_log(self) -> TrainingLog | None:
        """How training ended; None before `fit` and after `load`."""
        return self._log

    def step_size(self, n_examples: int) -> int:
        """Examples per optimiser step of an epoch that has so many."""
        return step_size(self.batch_size, n_examples, usual=self.usual_step)

    def _train(
        self, network: nn.Module, course: TrainingSpec, *, judge: Judge | None, data: str
    ) -> None:
        """Train a network; `data` is a digest of what it learns from."""
        self._log = train(
            network,
            course.batches,
            loss=course.loss,
            judge=judge,
            options=self._loop_options(),
            folder=self.checkpoints,
            facts={"settings": self._settings(), "data": data},
        )

    def _ready(self) -> F:
        """What `fit` or `load` left.

        Raises:
            TrainingError: Neither has been called.
        """
        if self._fitted is None:
            raise unfitted(type(self).__module__.rpartition(".")[2])
        return self._fitted

    def _settings(self) -> dict[str, Any]:
        """Constructor arguments that matter to what is learnt."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.init and each.name not in _PLACES
        }

    def _loop_options(self) -> LoopOptions:
        """The settings that concern the loop; what a family does not offer keeps its default."""
        offered = {each.name for each in fields(self)}
        names = [each.name for each in fields(LoopOptions) if each.name in offered]
        return LoopOptions(**{name: getattr(self, name) for name in names})


def refuse_lone_interactions(histories: Histories) -> None:
    """Refuse histories that hold nothing to predict.

    Args:
        histories: What each user chose.

    Raises:
        TrainingError: Nobody chose two items.
    """
    if not (histories.lengths > 1).any():
        raise TrainingError(
            needed="at least one user with two interactions",
            received=f"{len(histories.items)} interactions of which nobody has two",
            remedy="bring more data or lower the filters' limits",
        )
