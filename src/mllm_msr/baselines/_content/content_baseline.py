"""Base of MMGCN, MGAT, MMSR and Trans2D: fitting, validation, saving and scoring.

These baselines differ in their networks and in their training examples. The training data, the
selection of weights on validation users and the files are the same and implemented here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
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
from mllm_msr.baselines._training.neural_baseline import (
    NeuralBaseline,
    TrainingSpec,
    require_two_interactions,
)
from mllm_msr.baselines._training.options import Validate
from mllm_msr.baselines._training.train import seeded
from mllm_msr.baselines._training.validation import ValidationUsers
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData

Arrays = dict[str, npt.NDArray[Any]]

_NETWORK: Final = "network."
_CONTENT: Final = "content."


class ContentModel(ABC):
    """Network with everything needed for scoring.

    Attributes:
        network: Network; in evaluation mode during scoring.
        codes: Item codes of the catalog.
        content: Standardized content by item code, see `tensors.content_tensors`.
    """

    def __init__(self, network: nn.Module, codes: ItemCodes, content: Mapping[str, Tensor]) -> None:
        self.network = network
        self.codes = codes
        self.content = content

    @abstractmethod
    def finalize(self) -> None:
        """Set the weights that training has not updated; called after training."""

    @abstractmethod
    def update_item_embeddings(self) -> None:
        """Recompute the item embeddings used by all scores; called after the weights change."""

    @abstractmethod
    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Score candidates in their order; the arguments are those of `Recommender.score`.

        Returns:
            Shape [n_candidates].
        """

    @abstractmethod
    def arrays(self) -> Arrays:
        """Return the arrays to save besides weights and content."""


F = TypeVar("F", bound=ContentModel)


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Data that a network is built from and trained on.

    Attributes:
        codes: Item codes of the catalog.
        content: Content by item code, at least one modality.
        users: Users of the histories, sorted.
        histories: Interactions of each user.
    """

    codes: ItemCodes
    content: Mapping[str, Tensor]
    users: tuple[str, ...]
    histories: Histories

    def digest(self) -> str:
        """Return the SHA-256 of users, items and histories in hexadecimal."""
        found = hashlib.sha256(json.dumps([self.users, self.codes.item_ids]).encode())
        found.update(self.histories.items.tobytes() + self.histories.starts.tobytes())
        return found.hexdigest()


@dataclass(kw_only=True, eq=False)
class ContentBaseline(ReadsContent, NeuralBaseline[F]):
    """Recommender with a network that uses content; `F` is the type of its fitted model.

    Attributes:
        width: Size of all states, at least 1.

    Raises:
        SettingsError: A value is out of range.
    """

    width: int = 64

    @abstractmethod
    def build(self, context: TrainingContext) -> F:
        """Build a model with initial weights."""

    @abstractmethod
    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> F:
        """Rebuild a saved model except its weights.

        Args:
            state: Saved state.
            codes: Item codes of the catalog.
            content: Content by item code.
        """

    @abstractmethod
    def training_spec(self, fitted: F, histories: Histories) -> TrainingSpec:
        """Return training examples and loss.

        Args:
            fitted: Result of `build`.
            histories: Interactions of each user.
        """

    def family_problems(self) -> list[str]:
        """Return one sentence for each shared setting that is out of range."""
        return too_small(self, "width")

    def fit(self, data: TrainingData) -> Self:
        """Learn from all visible interactions; validation users select the weights."""
        codes = ItemCodes.from_ids(data.items["item_id"], data.interactions["item_id"])
        users, histories = user_histories(data.interactions, codes)
        require_two_interactions(histories)
        context = TrainingContext(codes, self.content(data.items, codes), users, histories)
        with seeded(self.seed):
            fitted = self.build(context)
        self._train(
            fitted.network,
            self.training_spec(fitted, histories),
            validate=_validation(fitted, data),
            data=context.digest(),
        )
        fitted.finalize()
        fitted.update_item_embeddings()
        self._fitted = fitted
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates by history and content; each baseline documents its fallbacks."""
        scores = self._require_fitted().scores(candidates, interactions)
        return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    def save(self, folder: Path) -> None:
        """Write settings, catalog, weights and content."""
        fitted = self._require_fitted()
        tensors = {
            **{f"{_NETWORK}{name}": t for name, t in fitted.network.state_dict().items()},
            **{f"{_CONTENT}{name}": t for name, t in fitted.content.items()},
        }
        arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
        item_ids, arrays = fitted.codes.item_ids, arrays | fitted.arrays()
        save_state(folder, State(self._settings(), item_ids, arrays, self._is_time_limited))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; content encoders are not needed again."""
        state = load_state(folder, names=[])
        weights, content = (
            {
                name.removeprefix(prefix): torch.from_numpy(array)
                for name, array in state.arrays.items()
                if name.startswith(prefix)
            }
            for prefix in (_NETWORK, _CONTENT)
        )
        try:
            loaded = cls(**state.settings)
            fitted = loaded.restore(state, ItemCodes(state.catalog), content)
            fitted.network.load_state_dict(weights)
            loaded._is_time_limited = state.is_time_limited
        except (TypeError, ValueError, KeyError, IndexError, RuntimeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        fitted.network.eval()
        fitted.update_item_embeddings()
        loaded._fitted = fitted
        return loaded


def _validation(fitted: ContentModel, data: TrainingData) -> Validate | None:
    """Return the AUC on validation users as a function, or None without validation users."""
    users = ValidationUsers.from_data(data)
    if users is None:
        return None
    candidates = users.rows.select("user_id", "position", "item_id")

    def auc() -> float:
        fitted.update_item_embeddings()
        return users.value(fitted.scores(candidates, data.interactions))

    return auc
