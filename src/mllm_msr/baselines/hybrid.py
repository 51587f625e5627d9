"""Hybrid: stacking of the scores of other recommenders, with weights learned on held-out targets.

Members are recommenders, MLLM-MSR included. `_ensemble/held_out.py` hides the last visible
interactions of some users; copies of the members that have not learned from them score them, and
`_ensemble/stacking.py` learns from these scores how to combine the members. With few targets the
weights are nearly equal. Unknown users and items are left to the members.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from mllm_msr.baselines._ensemble.held_out import (
    MAX_TARGETS,
    MAX_TARGETS_LLM,
    HeldOut,
    LearnsFromCandidates,
    hold_out,
    validation_candidates,
)
from mllm_msr.baselines._ensemble.stacking import (
    Floats,
    Scaling,
    Stacking,
    equal_stacking,
    fit_stacking,
)
from mllm_msr.baselines._factory import baseline_class, make
from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of, item_columns
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import CatalogScorer, Recommender, TrainingData
from mllm_msr.ranker.recommender import VARIANTS, MllmRecommender
from mllm_msr.storage.atomic import write_text
from mllm_msr.storage.verification import load_json
from mllm_msr.types import Seed

logger = logging.getLogger(__name__)

_FILE: Final = "hybrid.json"
_NAME: Final = "hybrid"


@final
class Hybrid(Recommender):
    """Ensemble of several recommenders.

    Args:
        members: Two or more recommenders: names of baselines, which are constructed with their
            default arguments, or recommenders by name. In a run, members have the settings of
            their sections (`baselines.NAME`) and are reused if they are already fitted; the
            default there is `default_members` and, if the run has scored it, `mllm_msr`.
        max_targets: Maximum number of held-out targets. With 0, weights are learned from the
            validation users.
        max_llm_targets: Maximum number of these targets that a member scores that calls a language
            model. The weights of the other members are learned from all targets first.
        shrinkage: Strength of the shrinkage towards equal weights, see `stacking.fit_stacking`.
        fit_copy: For members that are already fitted: fits a copy of a member, given its name, on
            other data. By default, `fit` fits the members.
        seed: Seed of members given by name, of held-out targets and of cross-validation folds.

    Attributes:
        stacking: Fitted combination with its weights and cross-validated likelihoods; None before
            `fit`.

    Raises:
        SettingsError: There are fewer than two members, one occurs twice, or one is a hybrid.
        UnknownNameError: There is no such baseline.
    """

    label: ClassVar[str] = "Hybrid"
    remark: ClassVar[str] = "stacking of several recommenders"
    default_members: ClassVar[tuple[str, ...]] = (
        "sasrec",
        "item_knn",
        "transitions",
        "content_knn",
    )

    def __init__(
        self,
        *,
        members: Sequence[str] | Mapping[str, Recommender] | None = None,
        max_targets: Annotated[int, Field(ge=0)] = MAX_TARGETS,
        max_llm_targets: Annotated[int, Field(ge=0)] = MAX_TARGETS_LLM,
        shrinkage: Annotated[float, Field(gt=0)] = 2.0,
        fit_copy: Callable[[str, TrainingData], Recommender] | None = None,
        seed: Seed = 0,
    ) -> None:
        given = self.default_members if members is None else members
        names = list(given)
        problems = []
        if len(names) < 2 or len(set(names)) < len(names):
            problems.append(f"members must be two or more distinct names, but is {names}.")
        if _NAME in names:
            problems.append(f"members must not contain 'hybrid', but is {names}.")
        if problems:
            raise SettingsError(problems)
        self._members: dict[str, Recommender] = (
            dict(given)
            if isinstance(given, Mapping)
            else {name: make(name, {"seed": seed}) for name in given}
        )
        self._max_targets = max_targets
        self._max_llm_targets = max_llm_targets
        self._shrinkage = shrinkage
        self._fit_copy = fit_copy
        self._seed = seed
        self._catalog: tuple[str, ...] = ()
        self.requires_llm = any(member.requires_llm for member in self._members.values())
        self.stacking: Stacking | None = None

    def fit(self, data: TrainingData) -> Self:
        """Fit the members and, on held-out targets, their weights.

        Without held-out targets, the targets are those of validation users. Without these, all
        weights are equal.
        """
        self._catalog = catalog_of(data)
        held_out = self._hold_out(data)
        scores = {} if held_out is None else self._score_copies(held_out, data)
        if self._fit_copy is None:
            for member in self._members.values():
                member.fit(data)
        unseen = validation_candidates(data)
        lists = unseen if held_out is None else held_out.candidates
        prior = None
        if held_out is not None and len(scores) < len(self._members):
            if scores:
                prior = fit_stacking(lists, scores, shrinkage=self._shrinkage, seed=self._seed)
            scores = _select(scores, lists, held_out.read)
            lists = held_out.read
        rows = next((table for table in (unseen, lists) if table.height), data.candidates)
        scalings = {}
        for name, member in self._members.items():
            # A member without a copy has learned from none of the lists.
            values = _scores(member, rows if name in scores or held_out is None else lists, data)
            scalings[name] = Scaling.of(values[~np.isnan(values)])
            scores.setdefault(name, values)
        self.stacking = equal_stacking(scalings)
        if lists.height:
            self.stacking = fit_stacking(
                lists,
                {name: scores[name] for name in self._members},
                scalings=scalings,
                prior=prior,
                shrinkage=self._shrinkage,
                seed=self._seed,
            )
        shares = ", ".join(f"{n} {share:.0%}" for n, share in self.stacking.shares().items())
        logger.info("Weights from %d targets: %s", self.stacking.n_targets, shares)
        return self

    def _hold_out(self, data: TrainingData) -> HeldOut | None:
        readers = [m for m in self._members.values() if isinstance(m, LearnsFromCandidates)]
        return hold_out(
            data,
            readers,
            max_targets=self._max_targets,
            max_read=self._max_llm_targets,
            seed=self._seed,
        )

    def _score_copies(self, held_out: HeldOut, data: TrainingData) -> dict[str, Floats]:
        """Fit copies of the members that learn from interactions, and score the held-out targets.

        A member that `fit` fits is its own copy: fitting it again starts from scratch.
        """
        scores = {}
        for name, member in self._members.items():
            if isinstance(member, LearnsFromCandidates):
                continue
            fit = self._fit_copy
            copy = member.fit(held_out.data) if fit is None else fit(name, held_out.data)
            with contextlib.closing(copy):
                scores[name] = _scores(copy, held_out.candidates, data)
        return scores

    @property
    def catalog(self) -> Sequence[str]:
        """Return item ids in the order of the columns of `score_catalog`."""
        return self._catalog

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """Score all items for every user; see `interfaces.CatalogScorer`."""
        stacking = self._fitted()
        for chunk in users.iter_slices(CHUNK):
            scores = {
                name: _score_all(member, chunk, interactions, self._catalog)
                for name, member in self._members.items()
            }
            yield chunk, stacking.combine(scores).astype(np.float32)

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Score candidates; scores are real numbers, null where a member in use has none."""
        stacking = self._fitted()
        scores = {
            name: member.score(candidates, interactions)["score"].to_numpy()
            for name, member in self._members.items()
        }
        return candidates.with_columns(pl.Series("score", stacking.combine(scores)).fill_nan(None))

    def usage(self) -> dict[str, int]:
        """Return the total usage of all members."""
        total: dict[str, int] = {}
        for member in self._members.values():
            for key, value in member.usage().items():
                total[key] = total.get(key, 0) + value
        return total

    def close(self) -> None:
        """Close all members."""
        for member in self._members.values():
            member.close()

    def save(self, folder: Path) -> None:
        """Write each member into a folder of its name, and the weights as JSON."""
        stacking = self._fitted()
        for name, member in self._members.items():
            member.save(folder / name)
        state = {
            "members": list(self._members),
            "seed": self._seed,
            "catalog": list(self._catalog),
            "stacking": stacking.to_json(),
        }
        write_text(folder / _FILE, json.dumps(state, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        try:
            state = load_json((folder / _FILE).read_text(encoding="utf-8"))
            names = [str(name) for name in state["members"]]
            catalog = tuple(map(str, state["catalog"]))
            stacking = Stacking.from_json(state["stacking"])
            seed = int(state["seed"])
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        members: dict[str, Recommender] = {}
        for name in names:
            kind = MllmRecommender if name in VARIANTS else baseline_class(name)
            members[name] = kind.load(folder / name)
        loaded = cls(members=members, seed=seed)
        loaded._catalog, loaded.stacking = catalog, stacking
        return loaded

    def _fitted(self) -> Stacking:
        if self.stacking is None:
            raise unfitted(_NAME)
        return self.stacking


def _scores(model: Recommender, candidates: pl.DataFrame, data: TrainingData) -> Floats:
    """Return the scores of candidates, NaN where the model has none: [n_candidates]."""
    scores: Floats = model.score(candidates, data.interactions)["score"].to_numpy()
    return scores


def _select(
    scores: Mapping[str, Floats], candidates: pl.DataFrame, selected: pl.DataFrame
) -> dict[str, Floats]:
    """Return the scores of some of the candidates, in their order."""
    keys = ["user_id", "position", "fold", "negatives", "item_id"]
    table = candidates.select(*keys).with_columns(**scores)
    joined = selected.select(keys).join(table, on=keys, how="left", maintain_order="left")
    return {name: joined[name].to_numpy() for name in scores}


def _score_all(
    model: Recommender, users: pl.DataFrame, interactions: pl.DataFrame, catalog: Sequence[str]
) -> npt.NDArray[np.floating]:
    """Score a catalog that may differ from the member's catalog: [n_users, n_items]."""
    if isinstance(model, CatalogScorer):
        columns = item_columns(pl.Series(catalog, dtype=pl.String), model.catalog)
        if (columns >= 0).all():
            chunks = [scores[:, columns] for _, scores in model.score_catalog(users, interactions)]
            return np.concatenate(chunks)
    items = pl.DataFrame({"item_id": catalog}, schema={"item_id": pl.String})
    crossed = users.select("user_id", "position").join(items, how="cross")
    scores = model.score(crossed, interactions)["score"].to_numpy()
    return scores.reshape(users.height, len(catalog))
