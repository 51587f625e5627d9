"""Recommendation of items of the full catalog to users of a finished run.

`MllmMsr.from_run(folder).recommend(user_id, k)` has these steps, in the order of this file:

1. Profile: the user's history and latest preference. A preference that is older than the history
   is updated first, with one prompt per missing block.
2. Candidates: generators propose items of the catalog (`recommend/retrieval.py`).
3. Scores: the ranker scores the first `budget` candidates, equation (1) of the paper.
4. List: P(yes) is combined with the relevance of the candidates (`recommend/list_weights.py`), the
   best k items are selected, and each is explained by the phrases of the preference or the items
   of the history that it matches.

The service (`serving/engine.py`) has the same steps, with a queue in front of the models. The paper
ranks only 21 given items, not the full catalog.

Users without a history get recently popular items and the reason; with `strict`, unknown users
raise an error. Unknown items of a given history are an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self, overload

import polars as pl

from mllm_msr import tables
from mllm_msr.config.loading import Overrides
from mllm_msr.errors import DataError
from mllm_msr.interfaces import Backend
from mllm_msr.ranker.examples import CHOICES
from mllm_msr.ranker.scoring import yes_probability
from mllm_msr.recommend.arguments import (
    RARE_USERS,
    check_counts,
    check_id,
    describe_unknown_users,
    read_ids,
    require_known,
    require_users,
)
from mllm_msr.recommend.batch import RecommendationBatch
from mllm_msr.recommend.list_weights import score_until_settled
from mllm_msr.recommend.lists import FallbackReason, RecommendationList, build_list, missing_input
from mllm_msr.recommend.loading import LoadedRun, load_run
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate
from mllm_msr.summarization.preference_history import latest_preference, n_items_read
from mllm_msr.summarization.preferences import infer_preferences

logger = logging.getLogger(__name__)


# Ids from Python code: a list, a column, or a frame.
Ids = Iterable[str] | tables.Frame


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
        plan: How lists are made.
        models: Factory of the ranker and the preference model.
        baselines: The scored baselines of the run by name.
    """

    def __init__(self, run: LoadedRun) -> None:
        self.settings = run.settings
        self.fold = run.fold
        self.catalog = run.catalog
        self.users = run.users
        self.retriever = run.retriever
        self.plan = run.plan
        self.models = run.models
        self.baselines = run.baselines
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
            StaleStageError: An override contradicts a finished stage.
            UsageError: The run does not have the fold.
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

    def __repr__(self) -> str:
        weights = f"fine-tuned, fold {self.fold}" if self.models.fine_tuned else "not fine-tuned"
        return (
            f"MllmMsr(dataset {self.settings.dataset!r}: {len(self.users):,} users, "
            f"{len(self.catalog):,} items; model {self.settings.model.backend!r}, {weights})"
        )

    def popular_items(self) -> list[str]:
        """Return all items of the catalog, sorted by descending number of interactions."""
        counts = self.users.item_counts()
        return sorted(self.catalog, key=lambda item_id: (-counts[item_id], item_id))

    # A text is an iterable of texts as well.
    @overload
    def recommend(  # type: ignore[overload-overlap]
        self,
        users: str,
        k: int = ...,
        *,
        budget: int | None = ...,
        exclude_seen: bool = ...,
        strict: bool = ...,
    ) -> RecommendationList: ...

    @overload
    def recommend(
        self,
        users: Ids,
        k: int = ...,
        *,
        budget: int | None = ...,
        exclude_seen: bool = ...,
        strict: bool = ...,
    ) -> RecommendationBatch: ...

    def recommend(
        self,
        users: str | Ids,
        k: int = 10,
        *,
        budget: int | None = None,
        exclude_seen: bool = True,
        strict: bool = False,
    ) -> RecommendationList | RecommendationBatch:
        """Recommend items to a user of the run, or to several at once.

        Args:
            users: The id of a user; or several as a list, a column, or a frame of Polars or pandas
                with the column user_id. Repeated ids count once.
            k: Length of each list; shorter if the catalog has fewer items.
            budget: Number of candidates that the model scores per user; by default
                `retrieve.budget`, or else what `fit-lists` has chosen; 0 for retrieval only.
            exclude_seen: Whether items of the history are excluded.
            strict: Whether to raise an error for an unknown user.

        Returns:
            The list of one user; or the lists of several users, in their order.

        Raises:
            UsageError: An argument has a wrong type or value.
            DataError: `strict` is set and a user is unknown.
            BackendError: The model failed.
        """
        user_ids = [users] if isinstance(users, str) else read_ids("users", users, "user_id")
        user_ids = list(dict.fromkeys(user_ids))
        check_counts(k=k, budget=budget)
        if strict:
            require_users(user_ids, self.users)
        elif problem := describe_unknown_users(user_ids, self.users):
            logger.warning("%s Unknown users get recently popular items. %s", problem, RARE_USERS)
        if self.plan.budget if budget is None else budget:
            self._update_users(user_ids)
        profiles = [self.users.profile(user_id) for user_id in user_ids]
        lists = self._recommend(profiles, k, budget, exclude_seen)
        return lists[0] if isinstance(users, str) else RecommendationBatch(lists)

    def recommend_for_history(
        self,
        history: Ids,
        k: int = 10,
        *,
        budget: int | None = None,
        exclude_seen: bool = True,
    ) -> RecommendationList:
        """Recommend items to a user who is not in the run, given their history.

        Args:
            history: Item ids, oldest first: a list, a column, or a frame of Polars or pandas with
                the column item_id, and optionally timestamp.
            k: As for `recommend`.
            budget: As for `recommend`.
            exclude_seen: As for `recommend`.

        Raises:
            UsageError: An argument has a wrong type or value.
            DataError: An item is not in the catalog; the message lists all of them.
            BackendError: The model failed.
        """
        known = tuple(read_ids("history", history, "item_id"))
        check_counts(k=k, budget=budget)
        require_known(known, self.catalog)
        preferences = tables.empty(tables.PREFERENCES)
        if known and self.settings.recommend.reads_preference:
            preferences = self.update_preferences(Profile("", known), preferences)
        profile = Profile("", known, latest_preference(preferences))
        (found,) = self._recommend([profile], k, budget, exclude_seen)
        return found

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
        return self._infer(profile.history_frame(), preferences, backend)

    def _infer(
        self, histories: pl.DataFrame, preferences: pl.DataFrame, backend: Backend | None = None
    ) -> pl.DataFrame:
        """Infer the missing preferences of histories of one or more users."""
        if backend is None:
            if self._preference_model is None:
                self._preference_model = self.models.open_preference_model()
            backend = self._preference_model
        return infer_preferences(
            histories,
            self.catalog.summaries,
            backend,
            item_type=self.catalog.item_type,
            previous=preferences,
            **self.settings.infer.arguments(),
        )

    def _recommend(
        self, profiles: Sequence[Profile], k: int, budget: int | None, exclude_seen: bool
    ) -> list[RecommendationList]:
        """Run the steps after the profiles: candidates, scores and lists."""
        n_scored = self.plan.budget if budget is None else budget
        candidates: list[list[Candidate]] = []
        reasons: list[FallbackReason | None] = []
        requests: list[tuple[Profile, Sequence[Candidate]]] = []
        n = self.plan.n_candidates(k=k, budget=n_scored)
        for profile in profiles:
            found = self.retriever.retrieve(profile, n, exclude_seen=exclude_seen)
            reason = None
            # Also with a plan without calls, new users learn why they get popular items.
            if n_scored or (budget is None and not profile.history):
                known = profile.user_id in self.users
                reason = missing_input(profile, known_user=known, prompt=self.settings.recommend)
            candidates.append(found)
            reasons.append(reason)
            requests.append((profile, found[:n_scored] if reason is None else []))
        lists = []
        for at, (scores, failures) in enumerate(
            score_until_settled(self.plan, requests, self._scores, k=k)
        ):
            profile, scored = requests[at]
            lists.append(
                build_list(
                    self.catalog,
                    profile,
                    candidates[at],
                    scores,
                    k=k,
                    diversity=self.settings.retrieve.diversity,
                    plan=self.plan,
                    fallback_reason="model_failed" if scored and not scores else reasons[at],
                    failures=failures,
                )
            )
        return lists

    def score(self, user_id: str, item_ids: Ids) -> list[float | None]:
        """Return P(yes) of items for a user of the run, in the order of `item_ids`.

        An item is scored without the images that cannot be opened. An item whose prompt fails
        has no score (None); the reason is logged.

        Args:
            user_id: The user.
            item_ids: Item ids: a list, a column, or a frame with the column item_id.

        Raises:
            UsageError: An argument has a wrong type.
            DataError: The user or an item is unknown, or the user has no preference.
            BackendError: The model itself failed.
        """
        check_id("user_id", user_id)
        wanted = read_ids("item_ids", item_ids, "item_id")
        require_known(wanted, self.catalog)
        require_users([user_id], self.users)
        self._update_users([user_id])
        profile = self.users.profile(user_id)
        if self.catalog.user_input(profile).is_empty:
            raise DataError(
                f"The user {user_id!r} has no preference, from which items are scored. Use a user "
                "with a history, or recommend() for popular items."
            )
        ((scores, _),) = self._scores([(profile, wanted)])
        return [scores.get(item_id) for item_id in wanted]

    def _update_users(self, user_ids: Sequence[str]) -> None:
        """Update the preferences of users to their full histories, with one call of the model.

        They are not updated for a model that does not read them.
        """
        if not (self.settings.infer.enabled and self.settings.recommend.reads_preference):
            return
        histories, previous = [], []
        for user_id in user_ids:
            profile, preferences = (
                self.users.profile(user_id),
                self.users.preference_history(user_id),
            )
            if profile.history and n_items_read(preferences) != len(profile.history):
                histories.append(profile.history_frame())
                previous.append(preferences)
        if not histories:
            return
        updated = self._infer(pl.concat(histories), pl.concat(previous))
        for (user_id,), preferences in updated.partition_by("user_id", as_dict=True).items():
            self.users.set_preference_history(user_id, preferences)

    def _scores(
        self, requests: Sequence[tuple[Profile, Sequence[str]]]
    ) -> list[tuple[dict[str, float], dict[str, str]]]:
        """Return the scores of the items of each request, and the reasons for missing ones.

        The prompts of all requests are one call of the ranker, which is loaded only if there are
        some.
        """
        results: list[tuple[dict[str, float], dict[str, str]]] = [({}, {}) for _ in requests]
        keys = [(at, item_id) for at, (_, item_ids) in enumerate(requests) for item_id in item_ids]
        if not keys:
            return results
        if self._ranker is None:
            self._ranker = self.models.open_ranker()
        inputs = [self.catalog.user_input(profile) for profile, _ in requests]
        prompts = (self.catalog.prompt(inputs[at], item_id) for at, item_id in keys)
        for index, answer in self._ranker.score(prompts, CHOICES):
            at, item_id = keys[index]
            scores, failures = results[at]
            score, error = yes_probability(answer)
            if score is not None:
                scores[item_id] = float(self.models.calibration.apply(score))
            else:
                failures[item_id] = error or ""
                logger.warning("Item %s has no score: %s", item_id, error)
        return results
