"""Base of SASRec and GRU4Rec, with and without content: next-item prediction from a sequence.

The four models differ only in their network. Item codes, batches, loss, negatives, validation,
fallbacks, files and full ranking are shared and implemented here, so that a comparison of the four
compares the networks (paper, section "Baseline Methods").
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from mllm_msr.baselines._content.tensors import ReadsContent
from mllm_msr.baselines._sequences.item_embeddings import content_in_state
from mllm_msr.baselines._sequences.losses import LOSSES, LossName, next_item_loss
from mllm_msr.baselines._sequences.sequence_model import SequenceModel, SequenceNetwork
from mllm_msr.baselines._shared.catalog import catalog_of
from mllm_msr.baselines._shared.state import State, damaged, load_state, save_state
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import (
    Histories,
    HistoryBatch,
    ItemCodes,
    TrainingBatches,
    UserTexts,
    user_histories,
)
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

Floats = npt.NDArray[np.float32]

_COUNTS: Final = "counts"
_COLD: Final = "cold"
_NETWORK: Final = "network."


@dataclass(kw_only=True, eq=False)
class SequenceBaseline(NeuralBaseline[SequenceModel]):
    """Recommender that learns to predict each item of a history from the items before it.

    It learns from all visible interactions; validation users select the weights. Without content,
    all items without interactions (cold items) share one vector, which is trained as an item that
    never comes next. With content (`ReadsContent`) each of them has its own vector. Unknown items
    share one vector in both cases. Users without a known item get the popularity of the items.

    Attributes:
        loss: One of `losses.LOSSES`.
        n_negatives: Negatives shared by a batch, for losses that sample them; at least 1.
        negative_power: Negatives are sampled by popularity to this power, in [0, 1]: 0 is
            uniform, 1 is proportional to popularity.
        max_length: Number of latest items of a history that are used, at least 1; longer
            histories are split into windows of this length for training.
        beta2: Second decay rate of AdamW, in [0, 1).
        clip: Maximum gradient norm; 0 disables clipping.

    Raises:
        SettingsError: A value is out of range.
    """

    has_vectors = True

    loss: LossName = "softmax"
    n_negatives: int = 1024
    negative_power: float = 0.75
    max_length: int = 50
    epochs: int = 100
    beta2: float = 0.98
    clip: float = 0.0

    @abstractmethod
    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """Build a network with initial weights.

        Args:
            n_warm: Number of items with interactions; their codes are 1 to `n_warm`.
            content: Content by modality, [n_codes, d_modality]; empty for a model without content.
        """

    def user_texts(self, data: TrainingData) -> UserTexts | None:  # noqa: ARG002 - a network without texts
        """Return the texts about users that the network reads, None if it reads none."""
        return None

    def training_spec(
        self,
        fitted: SequenceModel,
        windows: Histories,
        data: TrainingData,  # noqa: ARG002 - for networks that learn from more than histories
    ) -> TrainingSpec:
        """Return batches and loss of the training.

        Args:
            fitted: Model with the network to train.
            windows: Histories of at least two items.
            data: The training data.
        """
        batch_size = self.effective_batch_size(len(windows))
        return TrainingSpec(
            lambda epoch: TrainingBatches.shuffled(
                windows, batch_size=batch_size, seed=self.seed, epoch=epoch
            ),
            self._batch_loss(fitted.network, fitted.counts[: fitted.n_warm + 1]),
        )

    def family_problems(self) -> list[str]:
        """Return one sentence for each shared setting that is out of range."""
        found = too_small(self, "n_negatives", "max_length")
        if self.loss not in LOSSES:
            found.append(f"loss must be one of {', '.join(LOSSES)}, but is {self.loss!r}.")
        if not 0 <= self.negative_power <= 1:
            found.append(f"negative_power must be in [0, 1], but is {self.negative_power}.")
        return found

    def fit(self, data: TrainingData) -> Self:
        """Learn from all visible interactions; validation users select the weights."""
        catalog = catalog_of(data)
        warm = ItemCodes.from_ids(data.interactions["item_id"])
        n_warm = len(warm.item_ids)
        codes = self._all_codes(warm, catalog)
        texts = self.user_texts(data)
        _, histories = user_histories(data.interactions, codes, texts)
        require_two_interactions(histories)
        windows = histories.windows(self.max_length + 1)
        counts = torch.from_numpy(
            np.bincount(histories.items, minlength=codes.n_codes).astype(np.float32)
        )
        content: Mapping[str, Tensor] = {}
        if isinstance(self, ReadsContent):
            content = self.content(data.items, codes)
        with seeded(self.seed):
            network = self.build_network(n_warm, content)
        fitted = SequenceModel(
            network,
            codes,
            n_warm=n_warm,
            catalog=catalog,
            counts=counts,
            max_length=self.max_length,
            texts=texts,
        )
        spec = self.training_spec(fitted, windows, data)
        digest = hashlib.sha256(windows.items.tobytes() + windows.starts.tobytes())
        digest.update(json.dumps(codes.item_ids).encode() + spec.data)
        validate = self._validation(fitted, data)
        self._train(network, spec, validate=validate, data=digest.hexdigest())
        self._fitted = fitted
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Compute the inner product of the history's state and the candidate's vector."""
        fitted = self._require_fitted()
        scores = fitted.pair_scores(fitted.pairs(candidates, interactions))
        return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    @property
    def catalog(self) -> Sequence[str]:
        """Return all items of the training data, sorted."""
        return self._require_fitted().catalog

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """Score all items, a chunk of users at a time; see `interfaces.CatalogScorer`."""
        return self._require_fitted().catalog_scores(users, interactions)

    def user_states(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """Return states of users; see `ranker.collaborative.VectorModel`."""
        return self._require_fitted().states(targets, interactions)

    def item_table(self) -> tuple[Sequence[str], Floats, Floats]:
        """Return ids, vectors and numbers of interactions of all items with interactions."""
        fitted = self._require_fitted()
        rows = slice(1, fitted.n_warm + 1)
        with torch.no_grad():
            vectors = fitted.network.table()[rows].cpu().numpy()
        return fitted.codes.item_ids[: fitted.n_warm], vectors, fitted.counts[rows].numpy()

    def save(self, folder: Path) -> None:
        """Write settings and items as JSON, weights as safetensors."""
        fitted = self._require_fitted()
        weights = {
            f"{_NETWORK}{name}": tensor.numpy()
            for name, tensor in fitted.network.state_dict().items()
        }
        cold = ~np.isin(fitted.catalog, fitted.codes.item_ids[: fitted.n_warm])
        arrays = {**weights, _COUNTS: fitted.counts.numpy(), _COLD: cold}
        state = State(self._settings(), fitted.catalog, arrays, self._is_time_limited)
        save_state(folder, state)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; content encoders are not needed again."""
        state = load_state(folder, names=[_COUNTS, _COLD])
        try:
            loaded = cls(**state.settings)
            warm = np.array(state.catalog, dtype=object)[~state.arrays[_COLD]]
            weights = {
                name.removeprefix(_NETWORK): torch.from_numpy(array)
                for name, array in state.arrays.items()
                if name.startswith(_NETWORK)
            }
            network = loaded.build_network(len(warm), content_in_state(weights))
            network.load_state_dict(weights)
            loaded._is_time_limited = state.is_time_limited
        except (TypeError, ValueError, IndexError, RuntimeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        loaded._fitted = SequenceModel(
            network=network.eval(),
            codes=loaded._all_codes(ItemCodes(tuple(warm)), state.catalog),
            n_warm=len(warm),
            catalog=state.catalog,
            counts=torch.from_numpy(state.arrays[_COUNTS]),
            max_length=loaded.max_length,
        )
        return loaded

    def _all_codes(self, warm: ItemCodes, catalog: Sequence[str]) -> ItemCodes:
        """Return the codes of the warm items and, for models with content, of the cold items."""
        if not isinstance(self, ReadsContent):
            return warm
        known = frozenset(warm.item_ids)
        return ItemCodes((*warm.item_ids, *(item for item in catalog if item not in known)))

    def _validation(self, fitted: SequenceModel, data: TrainingData) -> Validate | None:
        """Return the AUC on validation users as a function, or None without validation users."""
        users = ValidationUsers.from_data(data)
        if users is None:
            return None
        pairs = fitted.pairs(users.rows, data.interactions)
        return lambda: users.value(fitted.pair_scores(pairs))

    def _batch_loss(
        self, network: SequenceNetwork, counts: Tensor
    ) -> Callable[[HistoryBatch], Tensor]:
        """Return the loss of a batch over the warm items.

        Without content, row 0 is among the classes and learns the score of an item that never
        comes next. With content, that would train the model to reject all new items.
        """
        first = 1 if isinstance(self, ReadsContent) else 0
        weights = counts**self.negative_power * (counts > 0)
        log_probability = (weights / weights.sum()).clamp(min=1e-30).log()

        def loss(batch: HistoryBatch) -> Tensor:
            assert batch.targets is not None
            negatives = None
            if self.loss == "bce":
                negatives = torch.randint_like(batch.targets, 1, len(weights))
            elif self.loss != "softmax":
                negatives = torch.multinomial(weights, self.n_negatives, replacement=True)
            return next_item_loss(
                network(batch),
                network.table()[first : len(weights)],
                targets=batch.targets - first,
                negatives=None if negatives is None else negatives.to(batch.items.device) - first,
                log_probability=log_probability[first:].to(batch.items.device),
                name=self.loss,
            )

        return loss
