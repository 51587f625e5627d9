"""The extension points: datasets, backends and recommenders.

Each is one abstract class in this module, and each implementation is one file:
`datasets/NAME.py`, `backends/NAME.py` or `baselines/NAME.py` contains exactly one public, final
subclass, and NAME is what users type. Other packages register their classes under the entry points
`mllm_msr.datasets`, `mllm_msr.backends` and `mllm_msr.baselines`. Metrics are the fourth extension
point, see `evaluation/metrics/`.

Every class here is abstract and every implementation is final: implementations are not subclassed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.errors import CapabilityError
from mllm_msr.search_space import Space
from mllm_msr.types import ChoiceScores, Completion, Prompt, SourceFile, SourceImages


@dataclass(frozen=True, slots=True)
class RawData:
    """Content of a dataset before any filtering.

    Attributes:
        interactions: Columns `user_id` (string), `item_id` (string), `timestamp` (integer,
            milliseconds since 1970, or a rank if the source only has an order). Lazy, in any row
            order; rows with equal user and timestamp keep their order.
        items: Columns of `tables.ITEMS` with distinct ids, one row per known item. Other items have
            neither a title nor an image; without a table of items, there are no rows.
        item_type: What an item is called in prompts: "video", "product", "film", "item".
        ordered_by: "time" if timestamps are times, "rank" if they only order.
        image_urls: Columns `item_id` and `url`: links to images that `items` lacks, one row per
            link, the first image of an item first. They are downloaded only with
            `images.download`.
        sources: Files that were read; empty if the dataset does not describe them.
        images: Image files that were found; `None` if the dataset does not describe them.
    """

    interactions: pl.LazyFrame
    items: pl.DataFrame
    item_type: str = "item"
    ordered_by: str = "time"
    image_urls: pl.DataFrame | None = None
    sources: tuple[SourceFile, ...] = ()
    images: SourceImages | None = None


class Dataset(ABC):
    """A source of interactions and items.

    The constructor takes flat, typed keyword arguments (the folder `path` and what else the source
    needs), with defaults where they make sense; they are the `data.*` settings. Files are checked
    and read by `load`.

    Attributes:
        caveat: Sentence that reports show about results on this dataset; may be empty.
    """

    caveat: ClassVar[str] = ""

    @abstractmethod
    def load(self) -> RawData:
        """Read the source.

        Raises:
            DataError: The folder or a file is missing, or a file is unreadable or has another
                format.
        """

    def read_interactions(self, file: Path) -> pl.LazyFrame | None:
        """Read new interactions for `mllm-msr update` from a file in the form of the source.

        Args:
            file: A later export of the source's interactions, complete or only with new rows.

        Returns:
            Interactions as in `RawData`, with the same filters by rating. Timestamps are null if
            the source only has the order of the rows. None if the source has no files: the file
            then has the columns `user_id`, `item_id` and `timestamp` (milliseconds since 1970).

        Raises:
            DataError: The file is missing, unreadable or has another format.
        """
        del file
        return None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend supports, so that unsupported requests fail before the first call.

    Attributes:
        images: Prompts may contain images.
        choices: `score` is available.
        adapters: LoRA adapters in PEFT's format can be loaded.
        scoring: How an endpoint computes the scores and why, in a few words; else empty.
    """

    images: bool
    choices: bool
    adapters: bool
    scoring: str = ""


class Backend(ABC):
    """A model that answers prompts.

    Stages pass all their prompts at once and consume results as they arrive. Batching, prefix
    sharing, reuse of image features and device placement are implemented here and only here. The
    result of a prompt does not depend on the other prompts, except for rounding.

    The constructor takes flat, typed arguments, which are the `model.*` settings. Everything
    expensive, such as loading weights, waits for the first prompt.

    The class attributes and class methods describe a backend without constructing it, so that no
    other code has to compare backend names.

    Attributes:
        is_local: Whether prompts are answered in this process, at no price per token.
        caches_image_prefixes: Whether the constructor takes `prefix_cache_bytes`: memory for the
            attention states of prompts that begin with the same images.
        reads_vectors: Whether prompts may contain vectors, with weights trained for them.
    """

    is_local: ClassVar[bool] = False
    caches_image_prefixes: ClassVar[bool] = False
    reads_vectors: ClassVar[bool] = False

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str | None:
        """Return the checkpoint that fine-tuning starts from, or None if there is none.

        Args:
            **model_kwargs: Constructor arguments of the backend.

        Returns:
            A folder or a hub id that `models.loading` can load.
        """
        del model_kwargs
        return None

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Return constructor arguments of the backend that loads a fine-tuned model.

        Args:
            model_kwargs: Constructor arguments of the backend before fine-tuning.
            adapter: Folder that fine-tuning wrote.
            method: "lora" for an adapter in PEFT's format, "full" for all weights of the model.

        Raises:
            CapabilityError: The backend cannot load fine-tuned weights.
        """
        del model_kwargs
        raise CapabilityError(
            f"{cls.__name__} cannot load the fine-tuned weights in {adapter} (method {method!r}). "
            "Use another backend or set train.enabled=false."
        )

    @classmethod
    def caveat(
        cls, source_coverage: float | None, *, has_own_projector: bool = False
    ) -> str | None:
        """Return what reports must say about results with this backend, or None.

        Args:
            source_coverage: Share of the words of the text summaries that occur in the items'
                texts; None if the run has no summaries.
            has_own_projector: Whether the run uses another projector than that of the checkpoint.
        """
        del source_coverage, has_own_projector
        return None

    @classmethod
    def default_copies(cls, **model_kwargs: Any) -> int:
        """Return how many copies of the model a service on this machine should run.

        Args:
            **model_kwargs: Constructor arguments of the backend.

        Returns:
            At least 1. More than 1 only for a model so small that several copies with one thread
            each answer more requests than one copy with as many threads.
        """
        del model_kwargs
        return 1

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identify everything that affects the answers: model, revision, adapter, precision.

        Part of every response cache key. It starts with the name of the backend and a colon
        ("demo:"), is the same in every process, and contains no path, so that folders can be
        moved.
        """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Return what this backend supports."""

    @abstractmethod
    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts with greedy decoding.

        Args:
            prompts: Any number of prompts; may be read ahead of the results.

        Yields:
            The prompt's index and its completion as soon as it is available: each index exactly
            once, in any order. `prompt_tokens` is positive, and the text has no surrounding white
            space. A prompt that fails, for example because of an unreadable image, yields a
            completion without text, with `finish_reason` "error" and with `error` set; if an image
            is the cause, `error` contains the name of its file.

        Raises:
            CapabilityError: A prompt contains an image and the backend does not support images;
                raised before that prompt is answered.
            BackendError: The backend as a whole failed, or it is closed ("The backend is closed.").
        """

    @abstractmethod
    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Compute the log-probability of each choice as the first new token.

        One forward pass per prompt.

        Args:
            prompts: Any number of prompts.
            choices: Answers, each exactly one token after the rendered prompt ("yes", "no").

        Yields:
            The prompt's index and its scores: each index exactly once, in any order.
            `prompt_tokens` is positive. A prompt that fails yields scores without values and with
            `error` set, as in `generate`.

        Raises:
            AnswerTokenError: A choice is not a single token after the rendered prompt.
            CapabilityError: The backend cannot score, or a prompt contains an image and the
                backend does not support images; raised before that prompt is scored.
            BackendError: The backend as a whole failed, or it is closed ("The backend is closed.").
        """

    @abstractmethod
    def close(self) -> None:
        """Free all resources; later prompts raise `BackendError`. Calling it twice is harmless."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that a recommender may learn from in one fold.

    Attributes:
        interactions: `tables.INTERACTIONS` without any hidden target: all interactions of the
            training users, and those of validation and test users before their target.
        items: `tables.ITEMS`, the whole catalog.
        candidates: This fold's rows of `tables.CANDIDATES` with split train or validation.
        train_users: Users whose last interaction is visible as well (the training fold).
        preferences: `tables.PREFERENCES`, for recommenders that read them, as the following.
        summaries: `tables.SUMMARIES`.
        teacher: `tables.TEACHER`.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    candidates: pl.DataFrame
    train_users: frozenset[str]
    preferences: pl.DataFrame | None = None
    summaries: pl.DataFrame | None = None
    teacher: pl.DataFrame | None = None


class Recommender(ABC):
    """A model that scores candidate items for users.

    MLLM-MSR, zero-shot and every baseline implement it, so that the evaluation treats them alike.

    The constructor of a baseline takes flat, typed keyword arguments, which are the
    `baselines.NAME.*` settings. One of them is `seed: int = 0`, even if the baseline is
    deterministic: experiments repeat every baseline with several seeds. The same arguments and
    data give the same scores.

    Attributes:
        label: Name in tables and reports ("SASRec").
        remark: Note below the tables in which the model appears; may be empty.
        requires_llm: Whether each score costs a call of a language model. Such a recommender
            ranks the full catalog for a sample of users only.
        has_vectors: Whether it is a `ranker.collaborative.VectorModel`.
        reads_mllm: Whether a baseline reads summaries, preferences and teacher scores.
    """

    label: ClassVar[str]
    remark: ClassVar[str] = ""
    requires_llm: bool = False
    has_vectors: ClassVar[bool] = False
    reads_mllm: ClassVar[bool] = False

    @abstractmethod
    def fit(self, data: TrainingData) -> Self:
        """Learn from one fold's training data; a second call starts from scratch.

        Raises:
            TrainingError: Training cannot continue.
        """

    @abstractmethod
    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates.

        Args:
            candidates: Columns `user_id`, `position`, `item_id`; others are passed through.
            interactions: `tables.INTERACTIONS`. The history of a candidate is its user's rows
                with a smaller position; all other rows are ignored.

        Returns:
            `candidates` with a column `score` (float64, higher is better; null if a language
            model could not score the candidate), rows in the order given. A score depends neither
            on that order nor on the other candidates. Unknown users and items get the
            recommender's documented fallback.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `score` needs; no pickle."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; scores are the same as before.

        Raises:
            DamagedFileError: A file is missing or its content has changed.
        """

    def usage(self) -> dict[str, int]:
        """Return what scoring has cost so far: model calls, tokens, failures.

        Empty for recommenders that call no model.
        """
        return {}

    def close(self) -> None:  # noqa: B027 - optional, most recommenders hold nothing
        """Free what scoring holds, such as a loaded model; `score` opens it again on demand."""


@runtime_checkable
class CatalogScorer(Protocol):
    """A recommender that can also score its whole catalog for many users quickly.

    Optional: full ranking checks `isinstance(model, CatalogScorer)` and otherwise passes every
    item of the catalog to `Recommender.score` as a candidate.
    """

    @property
    def catalog(self) -> Sequence[str]:
        """Return distinct item ids in the order of the columns that `score_catalog` yields.

        It contains every item of `TrainingData.items`, also those without interactions.
        """

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Score every item of the catalog, a chunk of users at a time.

        Args:
            users: Columns `user_id` and `position`, one row per ranking wanted.
            interactions: `tables.INTERACTIONS`; a user's history is as in `Recommender.score`.

        Yields:
            Consecutive rows of `users`, in the order given, and their scores
            [rows, len(catalog)], equal up to rounding to those of `Recommender.score`. The
            array may be reused for the next chunk. Items of the history are scored like others.
        """


@runtime_checkable
class Tunable(Protocol):
    """A recommender that declares a search space over its constructor's arguments.

    Optional: `mllm-msr tune` checks `issubclass(kind, Tunable)`.
    """

    @classmethod
    def space(cls) -> Space:
        """Return the arguments to search and their values, which include the defaults."""
