"""Trans2D: the candidate's attributes look at all attributes of all items of the history.

A baseline of the paper's Table 3 (Singer et al., WSDM 2022; the paper cites another work under this
name). Attributes are the item's id and its content in each modality. The score is the logit of a
candidate coming next, learned with binary cross-entropy against drawn items that somebody chose.
Since a score belongs to a pair, there is no cheap ranking of a whole catalog.

Items that nobody chose, or that are unknown, have the mean id embedding beside their content (if
any); users without a known item are scored by the candidate alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from mllm_msr.baselines._content.recommender import (
    Arrays,
    ContentBaseline,
    ContentModel,
    TrainingContext,
)
from mllm_msr.baselines._content.tensors import settle_unchosen
from mllm_msr.baselines._sequences.attention2d import Trans2dNetwork
from mllm_msr.baselines._shared.catalog import targets_of
from mllm_msr.baselines._shared.state import State
from mllm_msr.baselines._training.checks import not_a_share, too_small
from mllm_msr.baselines._training.histories import Codes, Histories, ItemCodes, histories_before
from mllm_msr.baselines._training.sampling import (
    NegativeItems,
    before,
    chosen,
    drawn_targets,
    owners_of,
)
from mllm_msr.baselines._training.trained import TrainingSpec
from mllm_msr.search_space import Choice, Range, Space

# Attention weights that a block may hold at once, over all heads and attributes.
_BLOCK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Pairs:
    """Histories, each with its candidates.

    Attributes:
        items: int64 [n_tokens]; item codes of the histories, one after the other.
        lengths: int64 [n]; items of each history.
        candidates: int64 [n, m]; in training the target and then what was drawn.
    """

    items: Tensor
    lengths: Tensor
    candidates: Tensor

    @classmethod
    def of(cls, histories: Histories, rows: Codes, candidates: Codes) -> Pairs:
        """Some of the histories; `candidates` are theirs [len(rows), m]."""
        read = chosen(histories, rows)
        arrays = read.items, read.lengths, candidates
        return cls(*map(torch.from_numpy, arrays))

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on a device."""
        return Pairs(self.items.to(device), self.lengths.to(device), self.candidates.to(device))


class PairModel(ContentModel):
    """A fitted `Trans2dNetwork`.

    Args:
        network: The weights.
        codes: Codes of the catalog.
        content: Content by item code.
        chosen: bool [n_codes]; the items that somebody chose.
        max_length: Latest items of a history that are read.
    """

    network: Trans2dNetwork

    def __init__(
        self,
        network: Trans2dNetwork,
        codes: ItemCodes,
        content: Mapping[str, Tensor],
        *,
        chosen: npt.NDArray[np.bool_],
        max_length: int,
    ) -> None:
        super().__init__(network, codes, content)
        self._chosen = chosen
        self._max_length = max_length
        self._table: Tensor | None = None

    def finalize(self) -> None:
        """Give items that nobody chose the mean id embedding."""
        settle_unchosen(self.network.item_ids, torch.from_numpy(self._chosen))

    @torch.no_grad()
    def update_item_embeddings(self) -> None:
        """Compute the items' tokens."""
        self._table = self.network.token_table()

    @torch.no_grad()
    def scores(
        self, candidates: pl.DataFrame, interactions: pl.DataFrame
    ) -> npt.NDArray[np.float64]:
        """Logits of candidates, each target's together: [n_rows]."""
        targets, rows = targets_of(candidates)
        histories = histories_before(targets, interactions, self.codes).latest(self._max_length)
        codes = self.codes.encode(candidates["item_id"])
        scores = np.zeros(len(codes))
        if self._table is None:
            self.update_item_embeddings()
        table = self._table
        assert table is not None
        for who, where in self._blocks(rows, histories):
            pairs = Pairs.of(histories, who, codes[where]).to(table.device)
            scores[where] = self.logits(pairs, table).float().cpu().numpy()
        return scores

    def logits(self, pairs: Pairs, table: Tensor) -> Tensor:
        """Logits of the candidates, [n, m], with the tokens of all items as `table`."""
        logits: Tensor = self.network(pairs.items, pairs.lengths, pairs.candidates, table)
        return logits

    def arrays(self) -> Arrays:
        """Which items somebody chose."""
        return {"chosen": self._chosen}

    def _blocks(self, rows: Codes, histories: Histories) -> Iterator[tuple[Codes, Codes]]:
        """Targets of similar length and equally many candidates, and the rows of these [n, m]."""
        order = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(histories))
        starts = np.cumsum(counts) - counts
        n_attributes = 1 + len(self.content)
        for count in np.unique(counts):
            who = np.flatnonzero(counts == count)
            who = who[np.argsort(histories.lengths[who], kind="stable")]
            longest = int(histories.lengths[who].max())
            weights = n_attributes**2 * self.network.attention.n_heads * (longest + 1) * count
            size = max(1, _BLOCK // int(weights))
            for part in np.split(who, range(size, len(who), size)):
                yield part, order[starts[part][:, None] + np.arange(count)]


@final
@dataclass(kw_only=True, eq=False)
class Trans2d(ContentBaseline[PairModel]):
    """Attention over steps and attributes; see `ContentBaseline` for the settings that it shares.

    Attributes:
        n_heads: Heads, at least 1; a divisor of `width`.
        max_length: Latest items of a history that are read, at least 1.
        targets_per_user: Targets that an epoch draws from each user's history, at least 1.
        n_negatives: Drawn items for each target, at least 1.
        dropout: Dropout of tokens, in [0, 1).
    """

    n_heads: int = 4
    max_length: int = 20
    targets_per_user: int = 16
    n_negatives: int = 8
    dropout: float = 0.3
    width: int = 64
    usual_step: ClassVar[int] = 512

    @classmethod
    def space(cls) -> Space:
        """What `mllm-msr tune` searches."""
        return {
            "width": Choice((32, 64)),
            "n_negatives": Range(2, 16),
            "dropout": Range(0.1, 0.6),
            "learning_rate": Range(2e-4, 5e-3, log=True),
        }

    def own_problems(self) -> list[str]:
        """One sentence for each setting out of its range."""
        found = too_small(self, "n_heads", "max_length", "targets_per_user", "n_negatives")
        found += not_a_share(self, "dropout")
        if self.n_heads >= 1 and self.width % self.n_heads:
            found.append(f"n_heads must divide width, they are {self.n_heads} and {self.width}")
        return found

    def build(self, lessons: TrainingContext) -> PairModel:
        """Fresh weights."""
        chosen = np.bincount(lessons.histories.items, minlength=lessons.codes.n_codes) > 0
        return self._model(lessons.codes, lessons.content, chosen)

    def restore(self, state: State, codes: ItemCodes, content: Mapping[str, Tensor]) -> PairModel:
        """The model that was saved."""
        return self._model(codes, content, state.arrays["chosen"])

    def course(self, fitted: PairModel, histories: Histories) -> TrainingSpec:
        """Drawn targets among drawn items; binary cross-entropy."""
        network = fitted.network
        owners = np.repeat(np.arange(len(histories)), histories.lengths)
        sampler = NegativeItems(owners, histories.items, n_items=fitted.codes.n_codes)

        def batches(epoch: int) -> list[Pairs]:
            rng = np.random.default_rng([self.seed, epoch])
            places = drawn_targets(histories, self.targets_per_user, rng)
            drawn = sampler.draw(owners_of(histories, places), self.n_negatives, rng)
            candidates = np.column_stack([histories.items[places], drawn])
            read = before(histories, places, max_length=self.max_length)
            size = self.step_size(len(places))
            cuts = range(size, len(places), size)
            return [
                Pairs.of(read, part, candidates[part])
                for part in np.split(np.arange(len(places)), cuts)
            ]

        def loss(batch: Pairs) -> Tensor:
            logits = fitted.logits(batch, network.token_table()).float()
            labels = torch.zeros_like(logits)
            labels[:, 0] = 1.0
            return functional.binary_cross_entropy_with_logits(logits, labels)

        return TrainingSpec(batches, loss)

    def _model(
        self, codes: ItemCodes, content: Mapping[str, Tensor], chosen: npt.NDArray[np.bool_]
    ) -> PairModel:
        network = Trans2dNetwork(
            [content[name] for name in sorted(content)],
            width=self.width,
            n_heads=self.n_heads,
            max_length=self.max_length,
            dropout=self.dropout,
        )
        return PairModel(network, codes, content, chosen=chosen, max_length=self.max_length)
