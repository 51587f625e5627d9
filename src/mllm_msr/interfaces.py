"""The three things that one can add: a data set, a backend, a recommender.

Each is one abstract class on this page, and each implementation is one file: `datasets/NAME.py`,
`backends/NAME.py` or `baselines/NAME.py` holds exactly one public, final subclass, and NAME is
what users type. Packages outside this one register the same classes under the entry points
`mllm_msr.datasets`, `mllm_msr.backends` and `mllm_msr.baselines`.

A class here is abstract or final, nothing between: implementations are not subclassed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.search_space import Space
from mllm_msr.types import ChoiceScores, Completion, Prompt


@dataclass(frozen=True, slots=True)
class RawData:
    """What a data set yields, before any filtering.

    Attributes:
        interactions: Columns `user_id` (string), `item_id` (string), `timestamp` (integer,
            milliseconds since 1970, or the rank where the source only gives an order). Lazy.
            Rows may stand in any order; rows with equal user and timestamp keep theirs.
        items: Columns of `tables.ITEMS`, ids unique, one row for each item that is known.
        item_type: What an item is called in prompts: "video", "product", "film", "item".
        ordered_by: "time" where timestamps are real times, "rank" where they only order.
        image_urls: Columns `item_id` and `url`: links to images that `items` lacks, where the
            source names them. They are followed only if `images.download` says so.
    """

    interactions: pl.LazyFrame
    items: pl.DataFrame
    item_type: str = "item"
    ordered_by: str = "time"
    image_urls: pl.DataFrame | None = None


class Dataset(ABC):
    """A source of interactions and items.

    The constructor takes flat keyword arguments (`path`, and what the source needs besides),
    each with a type and a default where there is a sensible one; they are the `data.*` settings.
    """

    @abstractmethod
    def load(self) -> RawData:
        """Read the source.

        Raises:
            DataError: A file is missing, unreadable or not in the expected form.
        """


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, so that the impossible is refused before the first call.

    Attributes:
        images: Prompts may hold images.
        choices: `score` is available.
        adapters: LoRA adapters in PEFT's format can be loaded.
    """

    images: bool
    choices: bool
    adapters: bool


class Backend(ABC):
    """A model that answers prompts.

    Stages hand over all their prompts at once and take results as they come: batching, sharing
    of prefixes, reuse of image features and placement on devices belong here and exist once.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Model, revision, adapter and precision: all that changes its answers. Used as a key."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend can do."""

    @abstractmethod
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts greedily.

        Args:
            prompts: Any number of prompts; may be read ahead of what is yielded.

        Yields:
            The prompt's index and its completion, each index exactly once, in any order and as
            soon as it is finished. A prompt that fails comes back with `error` set.

        Raises:
            CapabilityError: A prompt holds a image and the backend reads none.
            BackendError: The backend as a whole cannot go on.
        """

    @abstractmethod
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Log-probabilities of each choice as the first new token, in one forward pass.

        Args:
            prompts: Any number of prompts.
            choices: Answers, each exactly one token after the rendered prompt ("yes", "no").

        Yields:
            The prompt's index and its scores, each index exactly once, in any order.

        Raises:
            AnswerTokenError: A choice is not one token after the rendered prompt.
            CapabilityError: The backend cannot score, or a prompt holds a image and it reads
                none.
            BackendError: The backend as a whole cannot go on.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what is held. Calling it twice is harmless."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that a recommender may learn from in one fold.

    Attributes:
        interactions: `tables.INTERACTIONS` without any hidden target: all interactions of the
            training users, and those of validation and test users before their target.
        items: `tables.ITEMS`, the whole catalogue.
        candidates: This fold's rows of `tables.CANDIDATES` with split train or validation.
        train_users: Users whose last interaction is visible as well (the training fold).
        preferences: `tables.PREFERENCES`, where the recommender reads them.
        summaries: `tables.SUMMARIES`, where the recommender reads them.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    candidates: pl.DataFrame
    train_users: frozenset[str]
    preferences: pl.DataFrame | None = None
    summaries: pl.DataFrame | None = None


class Recommender(ABC):
    """A model that scores candidate items for users.

    The paper's recommender and its baselines meet this one interface, so that the evaluation
    cannot favour one. The constructor takes flat keyword arguments, `seed` among them where
    chance plays a part.

    Attributes:
        requires_llm: Whether each score costs a call of a language model, so that ranking a whole
            catalogue is not for many users.
    """

    requires_llm: ClassVar[bool] = False

    @abstractmethod
    def fit(self, data: TrainingData) -> Self:
        """Learn from one fold's training data; calling it again starts anew.

        Raises:
            TrainingError: Training cannot go on.
        """

    @abstractmethod
    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates.

        Args:
            candidates: Columns `user_id`, `position`, `item_id` (others are passed through).
            interactions: `tables.INTERACTIONS`; a candidate's history is its user's rows with a
                smaller position, whatever else the table holds.

        Returns:
            `candidates` with a column `score` (float64, higher is better), rows in the order
            given. Scores depend neither on that order nor on which other candidates are asked
            for. Unknown users and items get the recommender's declared fallback.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `score` needs; no pickle."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; scores are the same as before.

        Raises:
            DamagedFileError: A file is missing or not what was written.
        """


@runtime_checkable
class CatalogueScorer(Protocol):
    """A recommender that can also score its whole catalogue for many users quickly.

    An offer, not a duty: ranking asks `isinstance(model, CatalogueScorer)` and otherwise hands
    every item of the catalogue to `Recommender.score` as a candidate.
    """

    @property
    def catalogue(self) -> Sequence[str]:
        """Item ids, distinct, in the order of the columns that `score_catalogue` yields.

        Every item of `TrainingData.items` is among them, also where nobody has chosen it.
        """

    def score_catalogue(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Score every item of the catalogue, a chunk of users at a time.

        Args:
            users: Columns `user_id` and `position`, one row per ranking wanted.
            interactions: `tables.INTERACTIONS`; a user's history is as in `Recommender.score`.

        Yields:
            Consecutive rows of `users`, in the order given, and their scores
            [rows, len(catalogue)], equal up to rounding to those of `Recommender.score`. The
            array may be reused for the next chunk. Items of the history are scored like others.
        """


@runtime_checkable
class Joiner(Protocol):
    """A recommender that combines others, and takes in models that have scored elsewhere.

    An offer like `CatalogueScorer`: the stage "score" asks `isinstance(model, Joiner)` and hands
    over what the MLLM made of the same candidates.
    """

    def join(self, scores: Mapping[str, pl.DataFrame]) -> Self:
        """Take in models by their scores, before `fit`.

        Args:
            scores: For each model's name a frame with columns `user_id`, `item_id` and `score`:
                the fold's validation candidates, from which `fit` may learn what the scores are
                worth, and every candidate that will be asked for later. Labels are not read.

        Raises:
            SettingsError: A name is that of a part.
        """


@runtime_checkable
class Tunable(Protocol):
    """A recommender that says which of its constructor's arguments are worth searching.

    An offer like `CatalogueScorer`: `mllm-msr tune` asks `issubclass(kind, Tunable)`.
    """

    @classmethod
    def space(cls) -> Space:
        """Arguments of the constructor and the values to try; the defaults are among them."""
