"""Recommendation of items of the full catalog to users of a finished run.

`MllmMsr.from_run(folder).recommend(user_id, k)` has these steps, in the order of this file:

1. Profile: the user's history and latest preference. A preference that is older than the history
   is updated first, with one prompt per missing block.
2. Candidates: generators propose items of the catalog (`recommend/retrieval.py`).
3. Scores: the ranker scores the first `budget` candidates, equation (1) of the paper.
4. List: the ranker's ranking is fused with the relevance of the candidates, the best k items are
   selected, and each is explained by the phrases of the preference that it matches.

The service (`serving/engine.py`) has the same steps, with a queue in front of the models. The paper
ranks only 21 given items, not the full catalog.

Users without a history get recently popular items and the reason; with `strict`, unknown users
raise an error. Unknown items of a given history are an error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import polars as pl

from mllm_msr import tables
from mllm_msr.config.loading import Overrides
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import NEGATIVE_ANSWER, POSITIVE_ANSWER
from mllm_msr.ranker.scoring import yes_probability
from mllm_msr.recommend.arguments import check_counts, check_id, check_ids, require_known
from mllm_msr.recommend.lists import RecommendationList, build_list, missing_input
from mllm_msr.recommend.loading import LoadedRun, load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.summarization.preference_history import latest_preference, n_items_read
from mllm_msr.summarization.preferences import infer_preferences

logger = logging.getLogger(__name__)

# Answers whose probabilities define the score of an item.
CHOICES: Final = (POSITIVE_ANSWER, NEGATIVE_ANSWER)


class MllmMsr:
    """Recommender over the full catalog of a finished run.

    Create it with `from_run`. `close` (or a `with` block) frees the models. It is not thread-safe.

    Args:
        run: The loaded run.

    Attributes:
        settings: The run's settings.
        fold: Fold of the fine-tuned weights.
        catalog: The items.
        users: Profiles of the run's users.
        retriever: The candidate generators.
        models: Factory of the ranker and the preference model.
    """

    def __init__(self, run: LoadedRun) -> None:
        self.settings = run.settings
        self.fold = run.fold
        self.catalog = run.catalog
        self.users = run.users
        self.retriever = run.retriever
        self.models = run.models
        self._ranker: Backend | None = None
        self._preference_model: Backend | None = None

    @classmethod
    def from_run(
        cls,
        path: Path | str,
        *,
        overrides: Overrides = (),
        fold: int | None = None,
        hide_targets: bool = False,
    ) -> Self:
        """Open a run whose preferences have been inferred.

        The run folder is only read, except for the cache in `cache/retrieval`; other processes may
        read it at the same time.

        Args:
            path: The run folder.
            overrides: Settings as `key=value` or a mapping, such as {"retrieve.budget": 100}.
            fold: Fold of the fine-tuned weights; None for the first one.
            hide_targets: Whether to hide the targets of the fold, as in the evaluation. By default
                all interactions are used.

        Raises:
            RunFolderError: A required stage has not been run; the message names it.
            SettingsError: An override is invalid.
        """
        return cls(load_run(Path(path), overrides=overrides, fold=fold, hide_targets=hide_targets))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the models. Calling it twice is harmless."""
        for backend in (self._ranker, self._preference_model):
            if backend is not None:
                backend.close()
        self._ranker = self._preference_model = None

    def popular_items(self) -> list[str]:
        """Return all items of the catalog, sorted by descending number of interactions."""
        counts = self.users.item_counts()
        return sorted(self.catalog, key=lambda item_id: (-counts[item_id], item_id))

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
            k: Length of the list; shorter if the catalog has fewer items.
            budget: Number of candidates that the model scores; `retrieve.budget` by default, 0 for
                retrieval only.
            exclude_seen: Whether items of the history are excluded.
            strict: Whether to raise an error for an unknown user.

        Raises:
            UsageError: An argument has a wrong type or value.
            DataError: `strict` is set and the user is unknown.
            BackendError: The model failed.
        """
        check_id("user_id", user_id)
        check_counts(k=k, budget=budget)
        history = self.users.history(user_id)
        if strict and not history:
            raise DataError(
                f"Unknown user {user_id!r}. Use the id of a user of the run, or call it without "
                "strict to get popular items."
            )
        budget = self.settings.retrieve.budget if budget is None else budget
        profile = self._current_profile(user_id) if budget else self.users.profile(user_id)
        return self._recommend(profile, k, budget, exclude_seen)

    def recommend_for_history(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        budget: int | None = None,
        exclude_seen: bool = True,
    ) -> RecommendationList:
        """Recommend items to a user who is not in the run, given their history.

        Args:
            history: Item ids, oldest first.
            k: As for `recommend`.
            budget: As for `recommend`.
            exclude_seen: As for `recommend`.

        Raises:
            UsageError: An argument has a wrong type or value.
            DataError: An item is not in the catalog; the message lists all of them.
            BackendError: The model failed.
        """
        check_ids("history", history)
        check_counts(k=k, budget=budget)
        require_known(history, self.catalog)
        known = tuple(history)
        budget = self.settings.retrieve.budget if budget is None else budget
        preferences = tables.empty(tables.PREFERENCES)
        if known and self.settings.recommend.reads_preference:
            preferences = self.update_preferences(Profile("", known), preferences)
        profile = Profile("", known, latest_preference(preferences))
        return self._recommend(profile, k, budget, exclude_seen)

    def update_preferences(
        self, profile: Profile, preferences: pl.DataFrame, backend: Backend | None = None
    ) -> pl.DataFrame:
        """Update a preference history with one prompt for each missing block.

        Args:
            profile: The user.
            preferences: `tables.PREFERENCES` of the user so far.
            backend: Backend that generates the preferences; by default the run's own.

        Returns:
            `tables.PREFERENCES` of the user; the last row is the current preference.
        """
        if not self.settings.infer.enabled or n_items_read(preferences) == len(profile.history):
            return preferences
        if backend is None:
            if self._preference_model is None:
                self._preference_model = self.models.open_preference_model()
            backend = self._preference_model
        return infer_preferences(
            profile.history_frame(),
            self.catalog.summaries,
            backend,
            item_type=self.catalog.item_type,
            previous=preferences,
            **self.settings.infer.arguments(),
        )

    def _recommend(
        self, profile: Profile, k: int, budget: int, exclude_seen: bool
    ) -> RecommendationList:
        """Run the steps after the profile: candidates, scores and list."""
        candidates = self.retriever.retrieve(profile, max(k, budget), exclude_seen=exclude_seen)
        reason = None
        scores: dict[str, float] = {}
        failures: dict[str, str] = {}
        if budget:
            known = profile.user_id in self.users
            reason = missing_input(profile, known_user=known, prompt=self.settings.recommend)
            if reason is None and candidates:
                item_ids = [candidate.item_id for candidate in candidates[:budget]]
                scores, failures = self._scores(profile, item_ids)
                reason = None if scores else "model_failed"
        return build_list(
            self.catalog,
            profile,
            candidates,
            scores,
            k=k,
            diversity=self.settings.retrieve.diversity,
            order=self.settings.retrieve.order,
            fallback_reason=reason,
            failures=failures,
        )

    def score(self, user_id: str, item_ids: Sequence[str]) -> list[float | None]:
        """Return P(yes) of items for a user of the run, in the order of `item_ids`.

        An item is scored without the images that cannot be opened. An item whose prompt fails
        has no score (None); the reason is logged.

        Raises:
            UsageError: An argument has a wrong type.
            DataError: The user or an item is unknown, or the user has no preference.
            BackendError: The model itself failed.
        """
        check_id("user_id", user_id)
        check_ids("item_ids", item_ids)
        require_known(item_ids, self.catalog)
        if user_id not in self.users:
            raise DataError(f"Unknown user {user_id!r}. Use the id of a user of the run.")
        profile = self._current_profile(user_id)
        if self.catalog.user_input(profile).is_empty:
            raise DataError(
                f"The user {user_id!r} has no preference, from which items are scored. Use a user "
                "with a history, or recommend() for popular items."
            )
        scores, _ = self._scores(profile, item_ids)
        return [scores.get(item_id) for item_id in item_ids]

    def _current_profile(self, user_id: str) -> Profile:
        """Return the profile of a user, after an update of the preference to the full history.

        It is not updated for a model that does not read it.
        """
        profile = self.users.profile(user_id)
        if not profile.history or not self.settings.recommend.reads_preference:
            return profile
        preferences = self.update_preferences(profile, self.users.preference_history(user_id))
        self.users.set_preference_history(user_id, preferences)
        return self.users.profile(user_id)

    def _scores(
        self, profile: Profile, item_ids: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Return the scores of items, and the reasons for those that have none."""
        if self._ranker is None:
            self._ranker = self.models.open_ranker()
        user = self.catalog.user_input(profile)
        prompts = [self.catalog.prompt(user, item_id) for item_id in item_ids]
        scores: dict[str, float] = {}
        failures: dict[str, str] = {}
        for index, answer in self._ranker.score(prompts, CHOICES):
            score, error = yes_probability(answer)
            if score is not None:
                scores[item_ids[index]] = float(self.models.calibration.apply(score))
            else:
                failures[item_ids[index]] = error or ""
                logger.warning("Item %s has no score: %s", item_ids[index], error)
        return scores, failures
