"""Collaborative tokens: what a trained sequence baseline knows about users and items, in prompts.

With `recommend.collaborative`, three soft tokens of a prompt carry the vectors of a baseline such
as SASRec: the state of the user after the history, the candidate, and how well both match. A
projector that is trained with the ranker turns them into embeddings (`models/vector_tokens.py`).
Items that the baseline has hardly seen, and users without a history, get a learned embedding
instead, so that the content decides.

The baseline learns from the interactions without the targets that the ranker is trained on.
Otherwise it would know these targets, and the ranker would learn to trust it more than it deserves
for new ones. The same baseline serves training, scoring and recommendation, because the vectors of
two baselines are not comparable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, Self, cast, final, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr import registry
from mllm_msr.config.checks import backend_problem, baseline_problem
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import CapabilityError, DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.ranker.distributed.launch import rank_zero_first
from mllm_msr.storage.atomic import replace_file, write_text
from mllm_msr.storage.verification import load_json
from mllm_msr.tables import history_frame
from mllm_msr.types import Message, Part, Prompt, TextPart, Vector, VectorPart

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

_FOLDER: Final = "collaborative"
_FILE: Final = "collaborative.json"
# Texts in the folder of a student, see `baselines/student.py`.
_TEXTS: Final = "corpus.parquet"
# Rounded, so that vectors computed in other batches are the same tokens.
_DECIMALS: Final = 4
# More hidden interactions than this leave too few to learn from.
_MAX_HIDDEN: Final = 0.5


@runtime_checkable
class VectorModel(Protocol):
    """A fitted recommender whose scores are inner products of vectors of users and items."""

    def user_states(self, targets: pl.DataFrame, interactions: pl.DataFrame) -> Floats:
        """Return the vector of each user before a target.

        Args:
            targets: Columns `user_id` and `position`.
            interactions: `tables.INTERACTIONS`; a user's history are the rows before the position.

        Returns:
            Shape [n_targets, d]; zero for users without a known item.
        """

    def item_table(self) -> tuple[Sequence[str], Floats, Floats]:
        """Return the ids, vectors [n, d] and numbers of interactions [n] of the known items."""


@final
class CollaborativeVectors:
    """Vectors of users and items for prompts.

    They are scaled so that the inner product of a user with an item, divided by the square root of
    d, is the baseline's score of the item in standard deviations from the mean of the catalog.

    Args:
        model: Fitted baseline; a `VectorModel`.
        name: Name of the baseline.
        min_interactions: Items with fewer interactions are unknown.

    Attributes:
        n_dims: Size d of the vector of a user.

    Raises:
        TrainingError: Fewer than two items have enough interactions.
    """

    def __init__(self, model: Recommender, *, name: str, min_interactions: int) -> None:
        self._model = model
        self._about = {"name": name, "min_interactions": min_interactions}
        item_ids, vectors, counts = cast("VectorModel", model).item_table()
        is_known = counts >= min_interactions
        if is_known.sum() < 2:
            raise TrainingError(
                f"Only {is_known.sum()} items have {min_interactions} interactions that are not "
                "training targets. Lower recommend.collaborative_min_interactions or "
                "train.targets_per_user, or add data."
            )
        known = vectors[is_known].astype(np.float64)
        self.n_dims = known.shape[1]
        centered = known - known.mean(axis=0)
        self._covariance = centered.T @ centered / len(centered)
        self._deviation = float(np.sqrt(np.trace(self._covariance) / self.n_dims)) or 1.0
        popularity = np.log1p(counts[is_known].astype(np.float64))
        popularity = (popularity - popularity.mean()) / (popularity.std() or 1.0)
        rows = np.column_stack([centered / self._deviation, popularity]).round(_DECIMALS)
        ids = np.asarray(item_ids, dtype=object)[is_known]
        self._rows = dict(zip(ids, rows, strict=True))
        self._items: dict[str, Vector] = {}

    def state(self, history: Sequence[str]) -> Vector:
        """Return the vector of a user with a history; empty if no item of it is known.

        Args:
            history: Item ids, oldest first.
        """
        target = ("", len(history))
        targets = pl.DataFrame([target], schema=["user_id", "position"], orient="row")
        return self.states(targets, history_frame("", history))[target]

    def states(
        self, targets: pl.DataFrame, interactions: pl.DataFrame
    ) -> Mapping[tuple[str, int], Vector]:
        """Return the vector of each user before a target; empty if no item of it is known.

        Args:
            targets: Columns `user_id` and `position`.
            interactions: `tables.INTERACTIONS`; a user's history are the rows before the position.
        """
        keys = targets.select("user_id", "position").unique(maintain_order=True)
        raw = cast("VectorModel", self._model).user_states(keys, interactions).astype(np.float64)
        # Standard deviation of the scores of all items.
        spread = np.sqrt(np.einsum("nd,de,ne->n", raw, self._covariance, raw))
        scale = self._deviation * np.sqrt(self.n_dims) / np.where(spread > 0, spread, 1.0)
        scaled = (raw * scale[:, None]).round(_DECIMALS)
        is_known = np.any(raw, axis=1).tolist()
        return {
            (user, position): tuple(row.tolist()) if known else ()
            for (user, position), row, known in zip(keys.iter_rows(), scaled, is_known, strict=True)
        }

    def parts(self, state: Vector, item_id: str) -> tuple[VectorPart, VectorPart, VectorPart]:
        """Return the soft tokens of a user and a candidate: user, item and match.

        Args:
            state: Vector of the user.
            item_id: The candidate.
        """
        item = self._item(item_id)
        return (
            VectorPart("user", (state,) if state else ()),
            VectorPart("item", (item,) if item else ()),
            VectorPart("match", (state, item) if state and item else ()),
        )

    def similar(self, item_id: str, others: Iterable[str]) -> list[str]:
        """Return the items whose vectors are similar to that of an item, the most similar first.

        Args:
            item_id: The item.
            others: Other items. Unknown ones are left out, and those with a cosine of at most zero.
        """
        rows = {one: self._rows[one][: self.n_dims] for one in others if one in self._rows}
        if item_id not in self._rows or not rows:
            return []
        vectors = np.array(list(rows.values()))
        lengths = np.linalg.norm(vectors, axis=1)
        products = vectors @ self._rows[item_id][: self.n_dims]
        cosines = products / np.where(lengths > 0, lengths, 1.0)
        order = np.argsort(-cosines, kind="stable")
        ids = list(rows)
        return [ids[at] for at in order if cosines[at] > 0]

    def save(self, weights: Path) -> None:
        """Write the baseline into the folder of the ranker's weights."""
        self._model.save(weights / _FOLDER)
        write_text(weights / _FOLDER / _FILE, json.dumps(self._about))

    @classmethod
    def load(cls, weights: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DamagedFileError: A file is missing or its content has changed.
        """
        folder = weights / _FOLDER
        try:
            about: dict[str, Any] = load_json((folder / _FILE).read_text(encoding="utf-8"))
            kind = _baseline_class(about["name"])
            return cls(kind.load(folder), **about)
        except (OSError, ValueError, KeyError, TypeError, SettingsError, TrainingError) as cause:
            raise DamagedFileError(
                f"The vectors in {folder} cannot be read ({cause}). Restore the folder of the "
                "weights, or fine-tune again."
            ) from cause

    def _item(self, item_id: str) -> Vector:
        """Return the vector of an item; empty if it is unknown."""
        if item_id not in self._items:
            row = self._rows.get(item_id)
            self._items[item_id] = () if row is None else tuple(row.tolist())
        return self._items[item_id]


def fit_vectors(
    settings: RecommendSettings,
    data: TrainingData,
    candidates: pl.DataFrame,
    *,
    fit: Callable[[str, TrainingData], Recommender] | None = None,
) -> CollaborativeVectors | None:
    """Fit the baseline of the settings so that it knows none of the ranker's training targets.

    Args:
        settings: The section `recommend`.
        data: Training data of the fold.
        candidates: `tables.CANDIDATES` that the ranker is trained on.
        fit: Fits a baseline of a name; by default, it is constructed with its default arguments.

    Returns:
        The vectors; None if the prompts contain none.

    Raises:
        SettingsError: There is no such baseline, or it has no vectors.
        TrainingError: Too few interactions are left.
    """
    if not settings.reads_vectors:
        return None
    name = settings.collaborative
    kind = _baseline_class(name)
    key = ["user_id", "position"]
    targets = candidates.filter(pl.col("label") == 1).select(key)
    kept = data.interactions.join(targets, on=key, how="anti", maintain_order="left")
    share = 1 - kept.height / max(data.interactions.height, 1)
    if share > _MAX_HIDDEN:
        logger.warning(
            "%.0f%% of the interactions are training targets, from which %s must not learn. Lower "
            "train.targets_per_user or train.max_targets.",
            100 * share,
            name,
        )
    # The candidates of training users contain the targets.
    validation = data.candidates.filter(pl.col("split") == "validation")
    # Preferences are written from the targets as well, and requests have only a history.
    without = replace(data, interactions=kept, candidates=validation, preferences=None)
    with rank_zero_first():
        model = kind().fit(without) if fit is None else fit(name, without)
    return CollaborativeVectors(
        model, name=name, min_interactions=settings.collaborative_min_interactions
    )


def load_vectors(
    weights: Path | str | None, settings: RecommendSettings
) -> CollaborativeVectors | None:
    """Return the vectors that weights were fine-tuned with; None if the prompts contain none."""
    if weights is None or not settings.reads_vectors:
        return None
    return CollaborativeVectors.load(Path(weights))


def remove_texts(weights: Path) -> None:
    """Remove the texts of the catalog from saved vectors; they only encode further items.

    Args:
        weights: Folder of weights, which may have no vectors.
    """
    texts = weights / _FOLDER / _TEXTS
    if texts.is_file():
        with replace_file(texts) as temporary:
            pl.read_parquet(texts).clear().write_parquet(temporary)


def require_vectors(backend: str, settings: RecommendSettings) -> None:
    """Check that a backend can read the vectors that the settings ask for.

    Raises:
        CapabilityError: It cannot.
    """
    name = settings.collaborative
    if settings.reads_vectors and (problem := backend_problem(name, backend)):
        raise CapabilityError(problem)


def insert_vectors(
    prompt: Prompt, parts: Sequence[VectorPart], *, after_user: int, after_item: int
) -> Prompt:
    """Insert the soft tokens of a user and a candidate into a prompt.

    The token of a match follows the later of the other two, so that prompts that begin with the
    item, or with the user, still begin with the same tokens.

    Args:
        prompt: Prompt of the ranker.
        parts: The tokens of the user, the item and their match.
        after_user: `TextPart.trimmable` of the text that the token of the user follows.
        after_item: `TextPart.trimmable` of the text that the token of the item follows.

    Raises:
        SettingsError: The prompt lacks one of these texts.
    """
    user, item, match = parts
    waiting = {after_user: user, after_item: item}
    messages = []
    for message in prompt.messages:
        extended: list[Part] = []
        for part in message.parts:
            extended.append(part)
            if isinstance(part, TextPart) and part.trimmable in waiting:
                extended.append(waiting.pop(part.trimmable))
                if not waiting:
                    extended.append(match)
        messages.append(Message(message.role, tuple(extended)))
    if waiting:
        kinds = " and ".join(part.kind for part in waiting.values())
        problem = (
            f"The prompt has no place for the vector of the {kinds}, because its template leaves "
            "out a text. Correct the template in prompts.folder, or set "
            "recommend.collaborative=none."
        )
        raise SettingsError([problem])
    return replace(prompt, messages=tuple(messages))


def hide_item(prompt: Prompt) -> Prompt:
    """Return a prompt in which the collaborative model does not know the candidate."""
    messages = []
    for message in prompt.messages:
        parts = [
            replace(part, vectors=())
            if isinstance(part, VectorPart) and part.kind != "user"
            else part
            for part in message.parts
        ]
        messages.append(Message(message.role, tuple(parts)))
    return replace(prompt, messages=tuple(messages))


def _baseline_class(name: str) -> type[Recommender]:
    """Return the class of a baseline with vectors.

    Raises:
        SettingsError: There is no such baseline, or it has no vectors.
    """
    if problem := baseline_problem(name):
        raise SettingsError([problem])
    return registry.find_baseline(name)
