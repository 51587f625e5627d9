"""Student: a cheap sequence model that learns from interactions and from the MLLM's P(yes).

The network of SASRec_F (`sasrec_f.py`) over ids, the items' summaries and images; the text vector
of the written preference is added to the state of the history. Its scores are inner products, so
the full catalog is ranked by one matrix product. Besides the next item, it learns the order in
which the MLLM ranks items that are new to a user (`_distillation/`). Items without interactions,
and those that are added after training, get vectors from content alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from mllm_msr.baselines._content.features import (
    NONE,
    ContentVectors,
    content_vectors,
    encode_texts,
    item_texts,
)
from mllm_msr.baselines._content.tensors import (
    ReadsContent,
    column_scales,
    content_tensors,
    standardize,
)
from mllm_msr.baselines._distillation.lists import (
    StudentBatch,
    StudentBatches,
    TeacherLists,
    distillation_loss,
)
from mllm_msr.baselines._sequences.item_embeddings import (
    ContentEmbedding,
    FusedEmbedding,
    IdContentEmbedding,
)
from mllm_msr.baselines._sequences.sequence_baseline import SequenceBaseline
from mllm_msr.baselines._sequences.sequence_model import SequenceModel, SequenceNetwork
from mllm_msr.baselines._shared.state import damaged
from mllm_msr.baselines._training.checks import not_a_fraction
from mllm_msr.baselines._training.histories import Histories, HistoryBatch, ItemCodes, UserTexts
from mllm_msr.baselines._training.neural_baseline import TrainingSpec
from mllm_msr.baselines.sasrec import SasRec, SasRecNetwork, attention_problems
from mllm_msr.interfaces import TrainingData
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.factory import open_retrieval_encoder
from mllm_msr.search_space import Range, Space
from mllm_msr.storage.artifact_cache import digest
from mllm_msr.storage.atomic import replace_file
from mllm_msr.tables import ITEMS, conform

logger = logging.getLogger(__name__)

_PREFERENCE: Final = "preference"
_CORPUS: Final = "corpus.parquet"
_TEXTS: Final = "texts.parquet"
# Training states of the student without a teacher, in the folder of the other one.
_ALONE: Final = "alone"


@final
@dataclass(kw_only=True, eq=False)
class Student(ReadsContent, SequenceBaseline):
    """Recommender with self-attention over ids and content, distilled from the MLLM.

    Attributes:
        distillation: Weight of a scored pair relative to an interaction, at least 0; all pairs
            together weigh at most as if there were as many as interactions. 0 learns from
            interactions only.
        id_dropout: Probability that an item loses its id embedding in a training pass, in [0, 1).
        hidden: Size of the item embeddings and of all states, d, at least 1.
        n_blocks: Transformer blocks, at least 1.
        n_heads: Attention heads, at least 1; must divide `hidden`.
        dropout: Dropout probability, in [0, 1).
    """

    label: ClassVar[str] = "Student"
    remark: ClassVar[str] = "reads texts of the MLLM; learns from its scores if they help"
    reads_mllm: ClassVar[bool] = True

    distillation: float = 1.0
    id_dropout: float = 0.1
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 2
    dropout: float = 0.3
    # Texts of the catalog, which the text encoder is fitted on; columns' scales by modality; and
    # written preferences.
    _corpus: list[str] = field(default_factory=list, init=False, repr=False)
    _scales: dict[str, Vectors] = field(default_factory=dict, init=False, repr=False)
    _preferences: list[str] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def space(cls) -> Space:
        """Return the search space of `mllm-msr tune`."""
        return {**SasRec.space(), "distillation": Range(0.1, 10.0, log=True)}

    def fit(self, data: TrainingData) -> Self:
        """Learn from visible interactions and, if that helps, from the teacher's scores.

        With a teacher, two networks are trained, with and without its scores. The one with the
        higher AUC on validation users is kept, because a teacher that ranks worse than the
        interactions makes a student worse. Without validation users, the first one is kept.
        """
        data = replace(data, items=_with_summaries(data.items, data.summaries))
        if not self.distillation or data.teacher is None or data.teacher.is_empty():
            return super().fit(data)
        checkpoints = self.checkpoints and self.checkpoints / _ALONE
        alone = replace(self, distillation=0.0, checkpoints=checkpoints)
        alone.training_progress = self.training_progress
        SequenceBaseline.fit(alone, data)
        super().fit(data)
        return self._keep_better(alone)

    def _keep_better(self, alone: Self) -> Self:
        """Take the network of a student without a teacher if it ranks at least as well."""
        logs = self.training_log, alone.training_log
        taught, untaught = (None if log is None else log.best_value for log in logs)
        if taught is None or untaught is None:
            return self
        is_worse = untaught >= taught
        logger.log(
            logging.WARNING if is_worse else logging.INFO,
            "The student has validation AUC %.3f with the scores of the MLLM and %.3f without "
            "them, so it %s.",
            taught,
            untaught,
            "leaves them out" if is_worse else "uses them",
        )
        if is_worse:
            self._fitted, self._log = alone._fitted, alone._log
            self._is_time_limited = alone._is_time_limited
        return self

    def user_texts(self, data: TrainingData) -> UserTexts | None:
        """Return the written preferences; a target reads the latest one before it."""
        self._preferences = []
        if data.preferences is None or self.text_encoder == NONE:
            return None
        self._preferences = data.preferences["preference"].fill_null("").to_list()
        return UserTexts(data.preferences.select("user_id", position="n_items"))

    def content(self, items: pl.DataFrame, codes: ItemCodes) -> dict[str, Tensor]:
        """Encode items and preferences in a space that can encode further items later.

        Returns:
            "text" and "image", [n_codes, d], and "preference", [1 + n_preferences, d].

        Raises:
            DataError: All modalities are left out.
            BackendError: An encoder is unknown, or its weights cannot be loaded.
        """
        self._corpus = item_texts(conform(items, ITEMS, name="items"))
        vectors = self._encode(items)
        self._scales = {
            name: column_scales(table)
            for name, table in (("text", vectors.text), ("image", vectors.image))
        }
        content = content_tensors(vectors, codes)
        if self._preferences:
            rows = standardize(self._encode_texts(self._preferences))
            content[_PREFERENCE] = torch.from_numpy(np.pad(rows, ((1, 0), (0, 0))))
        return content

    def build_network(self, n_warm: int, content: Mapping[str, Tensor]) -> SequenceNetwork:
        """Build the encoder over fused embeddings, and the map of preferences."""
        items = {name: table for name, table in content.items() if name != _PREFERENCE}
        parts = IdContentEmbedding(
            items, n_warm=n_warm, size=self.hidden, id_dropout=self.id_dropout
        )
        encoder = SasRecNetwork(
            FusedEmbedding(parts, self.hidden),
            hidden=self.hidden,
            n_blocks=self.n_blocks,
            n_heads=self.n_heads,
            dropout=self.dropout,
            max_length=self.max_length,
        )
        scales = {
            name: torch.from_numpy(self._scales.get(name, np.zeros((2, table.shape[1]), "f4")))
            for name, table in items.items()
        }
        return StudentNetwork(
            encoder,
            scales,
            preferences=content.get(_PREFERENCE),
            hidden=self.hidden,
            dropout=self.id_dropout,
        )

    def training_spec(
        self, fitted: SequenceModel, windows: Histories, data: TrainingData
    ) -> TrainingSpec:
        """Add the lists of the teacher to the batches, and the distillation loss to the loss."""
        spec = super().training_spec(fitted, windows, data)
        preferences = b"" if windows.texts is None else windows.texts.tobytes()
        preferences += digest(preferences=self._preferences).encode()
        if not self.distillation:
            return replace(spec, data=preferences)
        lists = None
        if data.teacher is not None:
            lists = TeacherLists.from_table(data.teacher, fitted, data.interactions)
        if not lists:
            logger.warning(
                "There are no teacher scores, so the student learns from interactions only. "
                "`mllm-msr distill` computes them."
            )
            return replace(spec, data=preferences)
        logger.info("The student learns from %d lists of the teacher.", len(lists))
        # A batch has lists even if they are few. With a fixed weight they would spoil what it
        # learns from many interactions (docs/results.md, "Student").
        weight = self.distillation * lists.share(data.interactions.height)

        def loss(batch: StudentBatch) -> Tensor:
            distilled = distillation_loss(fitted.network, batch.lists)
            return spec.loss(batch.histories) + weight * distilled

        return TrainingSpec(
            lambda epoch: StudentBatches.shuffled(
                spec.batches(epoch), lists, seed=self.seed, epoch=epoch
            ),
            loss,
            data=preferences + lists.digest(),
        )

    def add_items(self, items: pl.DataFrame) -> Self:
        """Add new items to the catalog without training; their vectors come from content alone.

        Args:
            items: `tables.ITEMS` with absolute image paths; their text may be a summary. Items of
                the catalog are ignored.
        """
        fitted = self._require_fitted()
        known = pl.Series(fitted.catalog, dtype=pl.String)
        new = conform(items, ITEMS, name="items").filter(~pl.col("item_id").is_in(known.implode()))
        vectors = self._encode(new)
        network = fitted.network
        assert isinstance(network, StudentNetwork)
        network.append_items({"text": vectors.text, "image": vectors.image})
        ids = tuple(new["item_id"])
        self._fitted = replace(
            fitted,
            codes=ItemCodes((*fitted.codes.item_ids, *ids)),
            catalog=(*fitted.catalog, *ids),
            counts=torch.cat([fitted.counts, torch.zeros(len(ids))]),
        )
        return self

    def save(self, folder: Path) -> None:
        """Write what other sequence models write, and the texts that encode further items."""
        super().save(folder)
        texts = self._require_fitted().texts
        tables = {_CORPUS: pl.DataFrame({"text": self._corpus}, schema={"text": pl.String})}
        tables |= {} if texts is None else {_TEXTS: texts.rows}
        for name, table in tables.items():
            with replace_file(folder / name) as temporary:
                table.write_parquet(temporary)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; encoders are only needed for further items."""
        loaded = super().load(folder)
        loaded.read_texts(folder)
        return loaded

    def read_texts(self, folder: Path) -> None:
        """Read the texts of a saved model.

        Raises:
            DamagedFileError: A file is missing or invalid.
        """
        fitted = self._require_fitted()
        try:
            self._corpus = pl.read_parquet(folder / _CORPUS)["text"].to_list()
            if (folder / _TEXTS).exists():
                self._fitted = replace(fitted, texts=UserTexts(pl.read_parquet(folder / _TEXTS)))
        except (OSError, pl.exceptions.PolarsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause

    def own_problems(self) -> list[str]:
        """Return one sentence for each setting that is out of range."""
        found = attention_problems(self.hidden, n_blocks=self.n_blocks, n_heads=self.n_heads)
        if not self.distillation >= 0:
            found.append(f"distillation must be at least 0, but is {self.distillation}.")
        return [*found, *not_a_fraction(self, "dropout", "id_dropout")]

    def _encode(self, items: pl.DataFrame) -> ContentVectors:
        """Return content vectors in the space of the catalog."""
        images = content_vectors(
            items,
            text_encoder=NONE,
            image_encoder=self.image_encoder,
            cache=self.content_cache,
        )
        if self.text_encoder == NONE:
            return images
        return replace(images, text=self._encode_texts(item_texts(items)))

    def _encode_texts(self, texts: list[str]) -> Vectors:
        encoder = open_retrieval_encoder(self.text_encoder, self._corpus)
        space = digest(corpus=self._corpus)
        return encode_texts(texts, encoder, cache=self.content_cache, space=space)


class StudentNetwork(SequenceNetwork):
    """Network of SASRec whose states include the written preference.

    Args:
        encoder: Encoder of the history; its item embeddings are a `FusedEmbedding`.
        scales: Mean and deviation of each modality's columns, [2, d_modality].
        preferences: Text vectors, [1 + n_preferences, d]; None for a run without preferences.
        hidden: Size of the states.
        dropout: Probability that a state lacks the preference in a training pass.
    """

    def __init__(
        self,
        encoder: SasRecNetwork,
        scales: Mapping[str, Tensor],
        *,
        preferences: Tensor | None,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        for name, scale in scales.items():
            self.register_buffer(f"scale_{name}", scale)
        self._dropout = dropout
        self.user_content: ContentEmbedding | None = None
        if preferences is not None:
            self.user_content = ContentEmbedding({_PREFERENCE: preferences}, hidden)
            # The state starts as that of the history.
            self.preference_weight = nn.Parameter(torch.zeros(hidden))

    def forward(self, batch: HistoryBatch) -> Tensor:
        """Compute the state after each token, [n_tokens, d]."""
        states: Tensor = self.encoder(batch)
        if self.user_content is None or batch.texts is None:
            return states
        rows = batch.texts
        if self.training and self._dropout:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self._dropout, 0)
        known = (rows > 0)[:, None]
        read: Tensor = known * self.preference_weight * self.user_content(rows)
        return states + read

    def table(self) -> Tensor:
        """Return the item embeddings, [n_codes, d]."""
        return self.encoder.table()

    def append_items(self, vectors: Mapping[str, Vectors]) -> None:
        """Add items with the next codes; modalities that the network does not read are ignored."""
        scaled: dict[str, Any] = {}
        for name, table in vectors.items():
            if (scale := getattr(self, f"scale_{name}", None)) is not None:
                columns = scale.cpu().numpy()
                # Without any content, the encoder has returned one column.
                rows = table if table.any() else np.zeros((len(table), columns.shape[1]), "f4")
                scaled[name] = torch.from_numpy(standardize(rows, columns))
        items = self.encoder.items
        assert isinstance(items, FusedEmbedding)
        items.parts.content.append(scaled)


def _with_summaries(items: pl.DataFrame, summaries: pl.DataFrame | None) -> pl.DataFrame:
    """Return items whose text is their summary, if they have one."""
    if summaries is None:
        return items
    written = summaries.select("item_id", "summary")
    joined = items.join(written, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(text=pl.coalesce("summary", "text")).drop("summary")
