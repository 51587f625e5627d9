"""What the baselines that learn from content share: the steps of fitting, files, scoring.

MMGCN, MGAT, MMSR and Trans2D differ in their networks and in what a training example is; what is
learnt from, the choice of weights by validation users and the files are the same and stand here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._shared.state import State, damaged, load_state, save_state
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import Histories, ItemCodes, user_histories
from mllm_msr.baselines._training.train import Judge, seeded
from mllm_msr.baselines._training.trained import (
    TrainedRecommender,
    TrainingSpec,
    refuse_lone_interactions,
)
from mllm_msr.baselines._training.validation import ValidationUsers
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData

Arrays = dict[str, npt.NDArray[Any]]

_NETWORK: Final = "network."
_CONTENT: Final = "content."


class ContentModel(ABC):
    """A network with all that it needs to score.

    Attributes:
        network: The weights; in evaluation mode whenever scores are asked for.
        codes: Codes of the catalog.
        content: Standardised content by item code, see `tensors.content_tensors`.
    """

    def __init__(self, network: nn.Module, codes: ItemCodes, content: Mapping[str, Tensor]) -> None:
        self.network = network
        self.codes = codes
        self.content = content

    @abstractmethod
    def finalize(self) -> None:
        """Set, after training, the weights that no example has touched."""

    @abstractmethod
    def update_item_embeddings(self) -> None:
        """Compute what scores share, after the weights have changed."""

    @abstractmethod
    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Scores of candidate rows, in their order; arguments as for `Recommender.score`."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """Further arrays to be saved, besides weights and content."""


F = TypeVar("F", bound=ContentModel)


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """What a network learns from.

    Attributes:
        codes: Codes of the catalog.
        content: Content by item code, at least one modality.
        users: The users that will be learnt from, sorted.
        histories: What each of them chose.
    """

    codes: ItemCodes
    content: Mapping[str, Tensor]
    users: tuple[str, ...]
    histories: Histories

    def digest(self) -> str:
        """Hexadecimal SHA-256 of who chose what."""
        found = hashlib.sha256(json.dumps([self.users, self.codes.item_ids]).encode())
        found.update(self.histories.items.tobytes() + self.histories.starts.tobytes())
        return found.hexdigest()


@dataclass(kw_only=True, eq=False)
class ContentBaseline(ReadsContent, TrainedRecommender[F]):
    """Settings and steps that the baselines with content have in common, besides those of its bases.

    Attributes:
        width: Size of all states, at least 1.

    Raises:
        SettingsError: A value is out of its range.
    """

    width: int = 64

    @abstractmethod
    def build(self, lessons: TrainingContext) -> F:
        """Fresh weights."""

    @abstractmethod
    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> F:
        """The object that `build` made, weights aside, from what was saved.

        Args:
            state: What was saved.
            codes: Codes of the catalog.
            content: Content by item code.
        """

    @abstractmethod
    def course(self, fitted: F, histories: Histories) -> TrainingSpec:
        """Examples and loss.

        Args:
            fitted: What `build` made.
            histories: What each user chose.
        """

    def family_problems(self) -> list[str]:
        """One sentence for each shared setting out of its range."""
        return too_small(self, "width")

    def fit(self, data: TrainingData) -> Self:
        """Learn from all visible interactions; validation users choose the weights."""
        codes = ItemCodes.of(data.items["item_id"], data.interactions["item_id"])
        users, histories = user_histories(data.interactions, codes)
        refuse_lone_interactions(histories)
        lessons = TrainingContext(codes, self.content(data.items, codes), users, histories)
        with seeded(self.seed):
            fitted = self.build(lessons)
        self._train(
            fitted.network,
            self.course(fitted, histories),
            judge=_judge(fitted, data),
            data=lessons.digest(),
        )
        fitted.finalize()
        fitted.update_item_embeddings()
        self._fitted = fitted
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates by history and content; fallbacks as the baseline's module says."""
        scores = self._ready().scores(candidates, interactions)
        return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    def save(self, folder: Path) -> None:
        """Write settings, catalog, weights and content."""
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
            fitted = loaded.restore(state, ItemCodes(state.catalog), dict(_part(state, _CONTENT)))
            fitted.network.load_state_dict(dict(_part(state, _NETWORK)))
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        fitted.network.eval()
        fitted.update_item_embeddings()
        loaded._fitted = fitted
        return loaded


def _judge(fitted: ContentModel, data: TrainingData) -> Judge | None:
    """AUC over the validation users, if there are any."""
    users = ValidationUsers.of(data)
    if users is None:
        return None
    before = users.rows.select("user_id", "position", "item_id")

    def value() -> float:
        fitted.update_item_embeddings()
        return users.value(fitted.scores(before, data.interactions))

    return value


def _part(state: State, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, array in state.arrays.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), torch.from_numpy(array)
