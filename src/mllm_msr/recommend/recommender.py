"""Recommendations out of the whole catalogue: a finished run, put to use.

`MllmMsr.from_run(folder).recommend(user_id, k)` retrieves candidates (`recommend/retrieval.py`), lets the
fine-tuned model rank as many of them as its budget of calls allows, and says what in the user's
preference each one answers. The service does the same steps with its own queue in front of the
model. Beyond the paper, which ranks 21 given items.

Declared behaviour: an unknown user, or one without a history, gets recent popularity and the
reason for it (`strict` makes it an error); an item of a given history that is not in the
catalogue is passed over; a user whose preference lags behind his history has it brought up to
date first, at one prompt per open block.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import polars as pl

from mllm_msr import registry, tables
from mllm_msr.config.loading import load_settings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.errors import DataError, RunFolderError
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.context import Workspace, silent
from mllm_msr.pipeline.stages.update import current
from mllm_msr.ranker.examples import NEGATIVE_ANSWER, POSITIVE_ANSWER
from mllm_msr.ranker.scoring import probability
from mllm_msr.recommend.catalog import Catalogue
from mllm_msr.recommend.reranking import RecommendationList, assemble, missing
from mllm_msr.recommend.retrieval import Profile, history_frame
from mllm_msr.recommend.retriever_factory import make_retriever
from mllm_msr.storage.artifact_cache import ArtifactCache
from mllm_msr.storage.layout import CONFIG, RETRIEVAL_CACHE
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.summarization.preferences import infer_preferences

CHOICES: Final = (POSITIVE_ANSWER, NEGATIVE_ANSWER)


class MllmMsr:
    """A finished run as a recommender over its whole catalogue.

    Made by `from_run`; `close` (or a `with` block) lets the model go. Used from one thread.

    Args:
        work: The run, opened for reading.
        fold: Fold whose adapter ranks; the first one that was prepared where empty.
        hide_targets: Whether the fold's targets stay hidden, as for an evaluation; else every
            interaction counts.
    """

    def __init__(
        self, work: Workspace, *, fold: int | None = None, hide_targets: bool = False
    ) -> None:
        settings = work.settings
        artifact_cache = ArtifactCache(work.run.inside(RETRIEVAL_CACHE))
        self.settings = settings
        self.fold = work.folds()[0] if fold is None else fold
        self.catalogue = Catalogue(
            work.items(),
            work.run.read("summaries"),
            encoder=settings.retrieve.encoder,
            item_type=work.item_type,
            max_text_tokens=settings.train.max_text_tokens,
            artifact_cache=artifact_cache,
        )
        interactions = current(work, "interactions", work.run.read("interactions"))
        if hide_targets:
            interactions, _ = visible_interactions(interactions, work.run.read("splits"), self.fold)
        grouped = interactions.sort("user_id", "position").group_by("user_id").agg("item_id")
        self._histories = {user: tuple(item_ids) for user, item_ids in grouped.iter_rows()}
        self._preference_histories = current(
            work, "preferences", work.run.read("preferences")
        ).partition_by("user_id", as_dict=True)
        self.retriever = make_retriever(
            work, self.catalogue, interactions, fold=self.fold, artifact_cache=artifact_cache
        )
        self._work = work
        self._backend: Backend | None = None
        self._writer: Backend | None = None

    @classmethod
    def from_run(
        cls,
        path: Path | str,
        *,
        overrides: Sequence[str] = (),
        fold: int | None = None,
        hide_targets: bool = False,
    ) -> Self:
        """Open a run that has at least been inferred; trained or not.

        Args:
            path: The run folder. It is only read, but for `cache/retrieval`, where what retrieval
                has made is kept for the next time: other processes may read it too.
            overrides: Settings as `key=value` ("retrieve.budget=100").
            fold: See the class.
            hide_targets: See the class.

        Raises:
            RunFolderError: A stage that is needed has not been done; the message names it.
            SettingsError: An override is wrong.
        """
        folder = Path(path)
        run = RunFolder.open(folder, read_only=True)
        kept = folder / CONFIG
        settings = load_settings(None, overrides, file=kept if kept.is_file() else None)
        work = Workspace(run, settings, force=False, progress=silent)
        return cls(work, fold=fold, hide_targets=hide_targets)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the model go. Calling it twice is harmless."""
        for backend in (self._backend, self._writer):
            if backend is not None:
                backend.close()
        self._backend = self._writer = None

    @property
    def users(self) -> list[str]:
        """Ids of the run's users, sorted."""
        return sorted(self._histories)

    @property
    def trained(self) -> bool:
        """Whether the run's model was fine-tuned."""
        return self.settings.train.enabled

    @property
    def writes_untuned(self) -> bool:
        """Whether preferences are written by the ranking model as it is without fine-tuning."""
        return self.settings.infer.model is None

    def open_backend(self, *, threads: int | None = None) -> Backend:
        """A new backend with what fine-tuning made, for the caller to close.

        Args:
            threads: Threads of a model in this process, unless the run's settings name them.

        Raises:
            RunFolderError: Fine-tuning began with other weights than those of today.
        """
        wished: dict[str, Any] = {"prefix_cache_bytes": self.settings.retrieve.prefix_cache_bytes}
        if threads is not None:
            wished["threads"] = threads
        if not self.trained:
            return self._work.bare_backend(**wished)
        stage = self._work.run.stages.get(f"train/{self.fold}")
        begun_with = stage["model"] if stage else None
        with contextlib.closing(self._work.bare_backend()) as bare:
            if begun_with not in (None, bare.fingerprint):
                raise RunFolderError(
                    needed=f"the model that the run was fine-tuned from, {begun_with}",
                    received=bare.fingerprint,
                    remedy="bring that model back, or do the run again with --force",
                )
        adapter = self._work.run.folder / self._work.adapter(self.fold)
        return self._work.bare_backend(adapter=adapter, **wished)

    def open_writer(self) -> Backend:
        """A new backend that writes summaries and preferences, for the caller to close."""
        return self._work.bare_backend(self.settings.infer.model)

    @property
    def useful_copies(self) -> int:
        """Return how many copies of the ranking model a service on this machine should run.

        Several copies of a small model with one thread each answer more requests than one copy
        with as many threads (`benchmarks serving --copies`).
        """
        model = self.settings.model
        kind = cast("type[Backend]", registry.find("backends", model.backend))
        return kind.default_copies(**model.plugin_kwargs())

    @property
    def keeps_images(self) -> bool:
        """Whether the ranking model remembers what it has read of the items' images."""
        return self._work.can_keep_images and self.settings.retrieve.prefix_cache_bytes > 0

    def popular_items(self) -> list[str]:
        """The catalogue, what most users of the run have met first."""
        counts = Counter(item_id for history in self._histories.values() for item_id in history)
        return sorted(self.catalogue, key=lambda item_id: (-counts[item_id], item_id))

    def history(self, user_id: str) -> tuple[str, ...]:
        """A user's items in the run, oldest first; empty for an unknown user."""
        return self._histories.get(user_id, ())

    def preference_history(self, user_id: str) -> pl.DataFrame:
        """A user's rows of `tables.PREFERENCES` in the run; empty for an unknown user."""
        found = self._preference_histories.get((user_id,), tables.empty(tables.PREFERENCES))
        return found.filter(pl.col("n_items") <= len(self.history(user_id))).sort("block")

    def preference(self, user_id: str) -> str:
        """A user's latest preference in the run; blank for one without any."""
        return _latest(self.preference_history(user_id))

    def recommend(
        self,
        user_id: str,
        k: int = 10,
        *,
        budget: int | None = None,
        exclude_seen: bool = True,
        strict: bool = False,
    ) -> RecommendationList:
        """Recommend items to a user of the run.

        Args:
            user_id: The user.
            k: Length of the list; shorter where the catalogue has no more.
            budget: Candidates that the model ranks; the setting `retrieve.budget` if empty, and 0
                for the generators alone.
            exclude_seen: Whether items of the history are left out.
            strict: Whether an unknown user is an error.

        Raises:
            DataError: `strict`, and the user is unknown.
            BackendError: The model failed.
        """
        history = self.history(user_id)
        if strict and not history:
            raise DataError(
                needed="a user of the run",
                received=repr(user_id),
                remedy="name one of its users, or leave strict out for a popularity list",
            )
        spend = self.settings.retrieve.budget if budget is None else budget
        preference_history = self.preference_history(user_id)
        if history and spend:
            preference_history = self.infer(
                Profile(user_id, history), preference_history, self._writing()
            )
            self._preference_histories[user_id,] = preference_history
        return self._list(
            _with_preference(user_id, history, preference_history), k, spend, exclude_seen
        )

    def recommend_to(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        budget: int | None = None,
        exclude_seen: bool = True,
    ) -> RecommendationList:
        """Recommend items to somebody who is not in the run, by what he has met.

        Args:
            history: Item ids, oldest first; unknown ones are passed over.
            k: As for `recommend`.
            budget: As for `recommend`.
            exclude_seen: As for `recommend`.

        Raises:
            BackendError: The model failed.
        """
        known = tuple(item_id for item_id in history if item_id in self.catalogue)
        spend = self.settings.retrieve.budget if budget is None else budget
        preference_history = tables.empty(tables.PREFERENCES)
        if known:
            preference_history = self.infer(Profile("", known), preference_history, self._writing())
        return self._list(_with_preference("", known, preference_history), k, spend, exclude_seen)

    def infer(
        self, profile: Profile, preference_history: pl.DataFrame, backend: Backend
    ) -> pl.DataFrame:
        """A user's preference_history brought up to his history, at one prompt for each block that it lacks.

        Args:
            profile: The user.
            preference_history: `tables.PREFERENCES` of him so far.
            backend: Writes the preferences.

        Returns:
            `tables.PREFERENCES`, his whole preference_history, the last row final.
        """
        if preference_history.height and preference_history["n_items"].max() == len(
            profile.history
        ):
            return preference_history
        arguments = self.settings.infer.model_dump(exclude={"model", "preference_history"})
        return infer_preferences(
            history_frame(profile),
            self.catalogue.summaries,
            backend,
            item_type=self.catalogue.item_type,
            previous=preference_history,
            **arguments,
        )

    def score(self, preference: str, item_ids: Sequence[str]) -> list[float]:
        """P(yes) of items for a preference, in the order given.

        Raises:
            BackendError: The model failed as a whole; single failures get 0.5.
        """
        if self._backend is None:
            self._backend = self.open_backend()
        prompts = [self.catalogue.prompt(preference, item_id) for item_id in item_ids]
        found = dict(self._backend.score(prompts, CHOICES))
        return [probability(found[place])[0] for place in range(len(prompts))]

    def _writing(self) -> Backend:
        if self._writer is None:
            self._writer = self.open_writer()
        return self._writer

    def _list(
        self, profile: Profile, k: int, budget: int, exclude_seen: bool
    ) -> RecommendationList:
        candidates = self.retriever.retrieve(profile, max(k, budget), exclude_seen=exclude_seen)
        reason = missing(profile, known_user=profile.user_id in self._histories)
        spend = 0 if reason else budget
        asked = [candidate.item_id for candidate in candidates[:spend]]
        scores = dict(
            zip(asked, self.score(profile.preference, asked) if asked else [], strict=True)
        )
        return assemble(
            self.catalogue,
            profile,
            candidates,
            scores,
            k=k,
            diversity=self.settings.retrieve.diversity,
            order=self.settings.retrieve.order,
            reason=reason if budget else None,
        )


def _with_preference(
    user_id: str, history: tuple[str, ...], preference_history: pl.DataFrame
) -> Profile:
    return Profile(user_id, history, _latest(preference_history))


def _latest(preference_history: pl.DataFrame) -> str:
    return preference_history.sort("n_items")["preference"][-1] if preference_history.height else ""
