"""What the rivals that learn from content share: settings, encoders, training, files, scoring.

MMGCN, MGAT, MMSR and Trans2D differ in their networks and in what a training example is; the
content vectors, the loop, the choice of weights by validation users, the files and the fallbacks
are the same and stand here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.features import content_vectors
from mllm_msr.baselines._content.tensors import content_tensors
from mllm_msr.baselines._state import State, damaged, load_state, save_state, unfitted
from mllm_msr.baselines._training.drawing import step_size
from mllm_msr.baselines._training.histories import Histories, ItemCodes, user_histories
from mllm_msr.baselines._training.judging import ValidationUsers
from mllm_msr.baselines._training.ranges import too_small
from mllm_msr.baselines._training.train import (
    Judge,
    LoopOptions,
    Precision,
    TrainingLog,
    seeded,
    train,
)
from mllm_msr.errors import SettingsError, TrainingError
from mllm_msr.interfaces import Recommender, TrainingData

Arrays = dict[str, npt.NDArray[Any]]

_NETWORK: Final = "network."
_CONTENT: Final = "content."
# Where things lie; they change nothing about what is learnt.
_PLACES: Final = ("content_cache", "checkpoints")


class Fitted(ABC):
    """A network with all that it needs to score.

    Attributes:
        network: The weights; in evaluation mode whenever scores are asked for.
        codes: Codes of the catalogue.
        content: Standardised content by item code, see `tensors.content_tensors`.
    """

    def __init__(self, network: nn.Module, codes: ItemCodes, content: Mapping[str, Tensor]) -> None:
        self.network = network
        self.codes = codes
        self.content = content

    @abstractmethod
    def settle(self) -> None:
        """Set, after training, the weights that no example has touched."""

    @abstractmethod
    def refresh(self) -> None:
        """Compute what scores share, after the weights have changed."""

    @abstractmethod
    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Scores of candidate rows, in their order; arguments as for `Recommender.score`."""

    def arrays(self) -> Arrays:
        """Further arrays to be saved, besides weights and content."""
        return {}


F = TypeVar("F", bound=Fitted)


@dataclass(frozen=True, slots=True)
class Course:
    """What a network is trained on.

    Attributes:
        batches: The batches of an epoch, 0 the first; a function of the epoch alone.
        loss: Mean loss of a batch.
    """

    batches: Callable[[int], Sequence[Any]]
    loss: Callable[[Any], Tensor]


@dataclass(kw_only=True, eq=False)
class ContentRival(Recommender, Generic[F]):
    """Settings and steps that the rivals with content have in common.

    Attributes:
        text_encoder: A text encoder's name, see `features.py`.
        image_encoder: An image encoder's name, see `features.py`.
        content_cache: Folder for finished content vectors; None keeps none.
        width: Size of all states.
        batch_size: Examples per optimiser step; None for `usual_step`, or fewer in small data.
        epochs: As `LoopOptions.epochs`; the rest alike.
        learning_rate: Adam's.
        weight_decay: Decoupled.
        patience: Validations without gain before training stops.
        validate_every: Epochs between validations.
        max_minutes: Time after which training stops.
        precision: "auto", "bf16" or "fp32", of training; scores are always taken in float32.
        checkpoints: Folder from which a killed `fit` goes on; None keeps no states.
        seed: Seed of weights, order, dropout and negatives.

    Raises:
        SettingsError: A value is out of its range.
    """

    usual_step: ClassVar[int] = 1024
    text_encoder: str = "hashing"
    image_encoder: str = "colours"
    content_cache: Path | None = None
    width: int = 64
    batch_size: int | None = None
    epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 5
    validate_every: int = 1
    max_minutes: float = 60.0
    precision: Precision = "auto"
    checkpoints: Path | None = None
    seed: int = 0
    _fitted: F | None = field(default=None, init=False, repr=False)
    _log: TrainingLog | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the settings, all at once."""
        problems = [*self._loop_options().problems(), *self.problems()]
        if problems:
            raise SettingsError(problems)

    def problems(self) -> list[str]:
        """One sentence for each setting out of its range, besides those of the loop."""
        return too_small(self, "width", "batch_size", *self.counts())

    def step_size(self, n_examples: int) -> int:
        """Examples per optimiser step of an epoch that has so many."""
        return step_size(self.batch_size, n_examples, usual=self.usual_step)

    @abstractmethod
    def counts(self) -> tuple[str, ...]:
        """Names of this model's further settings that must be at least 1."""

    @abstractmethod
    def build(
        self,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        users: Sequence[str],
        histories: Histories,
    ) -> F:
        """Fresh weights.

        Args:
            codes: Codes of the catalogue.
            content: Content by item code, at least one modality.
            users: The users that will be learnt from, sorted.
            histories: What each of them chose.
        """

    @abstractmethod
    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> F:
        """The object that `build` made, weights aside, from what was saved.

        Args:
            state: What was saved.
            codes: Codes of the catalogue.
            content: Content by item code.
        """

    @abstractmethod
    def course(self, fitted: F, histories: Histories) -> Course:
        """Examples and loss.

        Args:
            fitted: What `build` made.
            histories: What each user chose.
        """

    @property
    def training_log(self) -> TrainingLog | None:
        """How training ended; None before `fit` and after `load`."""
        return self._log

    def fit(self, data: TrainingData) -> Self:
        """Learn from all visible interactions; validation users choose the weights."""
        codes = ItemCodes.of(data.items["item_id"], data.interactions["item_id"])
        users, histories = user_histories(data.interactions, codes)
        if not (histories.lengths > 1).any():
            raise TrainingError(
                needed="at least one user with two interactions",
                received=f"{data.interactions.height} interactions of which nobody has two",
                remedy="bring more data or lower the filters' limits",
            )
        vectors = content_vectors(
            data.items,
            text_encoder=self.text_encoder,
            image_encoder=self.image_encoder,
            cache=self.content_cache,
        )
        with seeded(self.seed):
            fitted = self.build(
                codes, content_tensors(vectors, codes), users=users, histories=histories
            )
        course = self.course(fitted, histories)
        self._log = train(
            fitted.network,
            course.batches,
            loss=course.loss,
            judge=_judge(fitted, data),
            options=self._loop_options(),
            folder=self.checkpoints,
            facts={"settings": self._settings(), "data": _digest(histories, codes, users)},
        )
        fitted.settle()
        fitted.refresh()
        self._fitted = fitted
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates by history and content; see the module for the fallbacks."""
        scores = self._ready().scores(candidates, interactions)
        return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    def save(self, folder: Path) -> None:
        """Write settings, catalogue, weights and content."""
        fitted = self._ready()
        parts = {
            **{f"{_NETWORK}{name}": t for name, t in fitted.network.state_dict().items()},
            **{f"{_CONTENT}{name}": t for name, t in fitted.content.items()},
        }
        arrays = {name: tensor.detach().numpy() for name, tensor in parts.items()}
        save_state(folder, State(self._settings(), fitted.codes.item_ids, arrays | fitted.arrays()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the encoders are not needed again."""
        state = load_state(folder, names=[])
        try:
            loaded = cls(**state.settings)
            fitted = loaded.restore(state, ItemCodes(state.catalogue), dict(_part(state, _CONTENT)))
            fitted.network.load_state_dict(dict(_part(state, _NETWORK)))
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        fitted.network.eval()
        fitted.refresh()
        loaded._fitted = fitted
        return loaded

    def _ready(self) -> F:
        if self._fitted is None:
            raise unfitted(type(self).__name__.lower())
        return self._fitted

    def _settings(self) -> dict[str, Any]:
        """Constructor arguments that matter to what is learnt."""
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.init and each.name not in _PLACES
        }

    def _loop_options(self) -> LoopOptions:
        names = {each.name for each in fields(LoopOptions)} & {each.name for each in fields(self)}
        return LoopOptions(**{name: getattr(self, name) for name in names})


def _judge(fitted: Fitted, data: TrainingData) -> Judge | None:
    """AUC over the validation users, if there are any."""
    users = ValidationUsers.of(data)
    if users is None:
        return None
    before = users.rows.select("user_id", "position", "item_id")

    def value() -> float:
        fitted.refresh()
        return users.value(fitted.scores(before, data.interactions))

    return value


def _part(state: State, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, array in state.arrays.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), torch.from_numpy(array)


def _digest(histories: Histories, codes: ItemCodes, users: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps([users, codes.item_ids]).encode())
    digest.update(histories.items.tobytes() + histories.starts.tobytes())
    return digest.hexdigest()
