"""Hybrid: stacking of the scores of other recommenders, with weights learned on validation users.

Members are recommenders, MLLM-MSR included; `_ensemble/stacking.py` learns from the validation
candidates how to combine their scores. If one member alone does better there, it is used alone, so
a hybrid is not significantly worse than its best member. Unknown users and items are left to the
members.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr.baselines._ensemble.stacking import Stacking, equal_stacking, fit_stacking
from mllm_msr.baselines._factory import baseline_class, make
from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of, item_columns
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import CatalogScorer, Recommender, TrainingData
from mllm_msr.ranker.recommender import VARIANTS, MllmRecommender
from mllm_msr.storage.atomic import write_text
from mllm_msr.storage.verification import load_json
from mllm_msr.tables import SCORES
from mllm_msr.types import Seed

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
        refit: Whether `fit` also fits the members; False if they are already fitted.
        seed: Seed of members given by name and of the cross-validation folds.

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
        refit: bool = True,
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
        self._refit = refit
        self._seed = seed
        self._catalog: tuple[str, ...] = ()
        self.requires_llm = any(member.requires_llm for member in self._members.values())
        self.stacking: Stacking | None = None

    def fit(self, data: TrainingData) -> Self:
        """Fit the members and, on validation candidates, their weights.

        Without validation candidates, all members get equal weights.
        """
        if self._refit:
            for member in self._members.values():
                member.fit(data)
        self._catalog = catalog_of(data)
        validation = data.candidates.filter(pl.col("split") == "validation")
        rows = data.candidates if validation.is_empty() else validation
        scores = {
            name: member.score(rows, data.interactions).select(*SCORES)
            for name, member in self._members.items()
        }
        self.stacking = (
            equal_stacking(scores)
            if validation.is_empty()
            else fit_stacking(scores, seed=self._seed)
        )
        return self

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
