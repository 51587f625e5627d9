"""What the sequence models share: they turn a history into a vector and rank items by its product.

SASRec and GRU4Rec, with and without content, differ in one network only; coding, batches, loss,
negatives, choice of the weights, fallbacks, files and full ranking are the same and stand here,
so that a comparison of the four compares the networks (paper, section "Baseline Methods").
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
from mllm_msr.baselines._sequences.item_vectors import content_of
from mllm_msr.baselines._sequences.losses import LOSSES, LossName, next_item_loss
from mllm_msr.baselines._sequences.scores import SequenceModel, SequenceNetwork
from mllm_msr.baselines._shared.catalog import catalog_of
from mllm_msr.baselines._shared.state import State, damaged, load_state, save_state
from mllm_msr.baselines._training.checks import too_small
from mllm_msr.baselines._training.histories import (
    Batch,
    Histories,
    ItemCodes,
    TrainingBatches,
    user_histories,
)
from mllm_msr.baselines._training.train import Judge, seeded
from mllm_msr.baselines._training.trained import (
    TrainedRecommender,
    TrainingSpec,
    refuse_lone_interactions,
)
from mllm_msr.baselines._training.validation import ValidationUsers
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import TrainingData

Floats = npt.NDArray[np.float32]

_COUNTS: Final = "counts"
_STRANGE: Final = "strange"
_NETWORK: Final = "network."


@dataclass(kw_only=True, eq=False)
class NextItemRecommender(TrainedRecommender[SequenceModel]):
    """Learns to predict each item of each history from those before it.

    All visible interactions are learnt from; validation users' targets choose the weights. In a
    model of ids alone, items that nobody chose share one vector, which is trained as an item that
    never comes next; in one that is `ReadsContent` as well they have vectors of their own. Items
    that are unknown altogether share one either way. Users without a known item get the items'
    popularity.

    Attributes:
        loss: One of `losses.LOSSES`.
        n_negatives: Negatives that a batch shares, for the losses that draw them; at least 1.
        negative_power: They are drawn by popularity to this power, in [0, 1]: 0 uniformly, 1 as
            chosen.
        max_length: Latest items of a history that are read, at least 1; longer ones are learnt
            from in windows of this length.
        beta2: As `LoopOptions.beta2`.
        clip: As `LoopOptions.clip`.

    Raises:
        SettingsError: A value is out of its range.
    """

    loss: LossName = "softmax"
    n_negatives: int = 1024
    negative_power: float = 0.75
    max_length: int = 50
    epochs: int = 100
    beta2: float = 0.98
    clip: float = 0.0

    @abstractmethod
    def network(self, n_met: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """A network with fresh weights.

        Args:
            n_met: Items that somebody chose; their codes are 1 to `n_met`.
            content: Content by modality, [n_codes, d_modality]; empty for a model of ids alone.
        """

    def family_problems(self) -> list[str]:
        """One sentence for each shared setting out of its range."""
        found = too_small(self, "n_negatives", "max_length")
        if self.loss not in LOSSES:
            found.append(f"loss must be one of {', '.join(LOSSES)}, it is {self.loss!r}")
        if not 0 <= self.negative_power <= 1:
            found.append(f"negative_power must lie in [0, 1], it is {self.negative_power}")
        return found

    def fit(self, data: TrainingData) -> Self:
        """Learn from all visible interactions."""
        catalog = catalog_of(data)
        met = ItemCodes.of(data.interactions["item_id"])
        codes = self._codes(met, catalog)
        _, histories = user_histories(data.interactions, codes)
        refuse_lone_interactions(histories)
        windows = histories.windows(self.max_length + 1)
        counted = np.bincount(histories.items, minlength=codes.n_codes)
        counts = torch.from_numpy(counted.astype(np.float32))
        n_met = len(met.item_ids)
        content = self._content(data.items, codes)
        with seeded(self.seed):
            network = self.network(n_met, content)
        fitted = SequenceModel(
            network,
            codes,
            n_met=n_met,
            catalog=catalog,
            counts=counts,
            max_length=self.max_length,
        )
        batch_size = self.step_size(len(windows))
        course = TrainingSpec(
            lambda epoch: TrainingBatches.shuffled(
                windows, batch_size=batch_size, seed=self.seed, epoch=epoch
            ),
            self._batch_loss(network, counts[: n_met + 1]),
        )
        judge = self._judge(data, fitted)
        self._train(network, course, judge=judge, data=_digest(windows, codes))
        self._fitted = fitted
        return self

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Products of the history's state and the candidate's vector."""
        fitted = self._ready()
        scores = fitted.pair_scores(fitted.pairs(candidates, interactions))
        return candidates.with_columns(pl.Series("score", scores, dtype=pl.Float64))

    @property
    def catalog(self) -> Sequence[str]:
        """Every item of the training data, sorted."""
        return self._ready().catalog

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, Floats]]:
        """Scores of all items, a chunk of users at a time; see `interfaces.CatalogScorer`."""
        return self._ready().catalog_scores(users, interactions)

    def save(self, folder: Path) -> None:
        """Write settings and items as JSON, weights as safetensors."""
        fitted = self._ready()
        weights = {
            f"{_NETWORK}{name}": tensor.numpy()
            for name, tensor in fitted.network.state_dict().items()
        }
        strange = ~np.isin(fitted.catalog, fitted.codes.item_ids[: fitted.n_met])
        arrays = {**weights, _COUNTS: fitted.counts.numpy(), _STRANGE: strange}
        save_state(folder, State(self._settings(), fitted.catalog, arrays))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; encoders of content are not needed again."""
        state = load_state(folder, names=[_COUNTS, _STRANGE])
        try:
            loaded = cls(**state.settings)
            met = np.array(state.catalog, dtype=object)[~state.arrays[_STRANGE]]
            weights = {
                name.removeprefix(_NETWORK): torch.from_numpy(array)
                for name, array in state.arrays.items()
                if name.startswith(_NETWORK)
            }
            network = loaded.network(len(met), content_of(weights))
            network.load_state_dict(weights)
        except (TypeError, ValueError, IndexError, RuntimeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        loaded._fitted = SequenceModel(
            network=network.eval(),
            codes=loaded._codes(ItemCodes(tuple(met)), state.catalog),
            n_met=len(met),
            catalog=state.catalog,
            counts=torch.from_numpy(state.arrays[_COUNTS]),
            max_length=loaded.max_length,
        )
        return loaded

    def _codes(self, met: ItemCodes, catalog: Sequence[str]) -> ItemCodes:
        """Codes of the items that were chosen; with content, those of all others after them."""
        if not isinstance(self, ReadsContent):
            return met
        known = frozenset(met.item_ids)
        return ItemCodes((*met.item_ids, *(item for item in catalog if item not in known)))

    def _content(self, items: pl.DataFrame, codes: ItemCodes) -> Mapping[str, Tensor]:
        return self.content(items, codes) if isinstance(self, ReadsContent) else {}

    def _judge(self, data: TrainingData, fitted: SequenceModel) -> Judge | None:
        users = ValidationUsers.of(data)
        if users is None:
            return None
        pairs = fitted.pairs(users.rows, data.interactions)
        return lambda: users.value(fitted.pair_scores(pairs))

    def _batch_loss(self, network: SequenceNetwork, counts: Tensor) -> Callable[[Batch], Tensor]:
        """The loss of a batch among the items that somebody chose.

        For a model of ids row 0 competes too and learns what an item is worth that nobody
        chooses. With content that would teach it to despise whatever is new.
        """
        first = 1 if isinstance(self, ReadsContent) else 0
        weights = counts**self.negative_power * (counts > 0)
        log_chance = (weights / weights.sum()).clamp(min=1e-30).log()

        def loss(batch: Batch) -> Tensor:
            assert batch.targets is not None  # training batches have them
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
                log_chance=log_chance[first:].to(batch.items.device),
                name=self.loss,
            )

        return loss


def _digest(windows: Histories, codes: ItemCodes) -> str:
    """Hexadecimal SHA-256 of what is learnt from."""
    digest = hashlib.sha256(windows.items.tobytes() + windows.starts.tobytes())
    digest.update(json.dumps(codes.item_ids).encode())
    return digest.hexdigest()
