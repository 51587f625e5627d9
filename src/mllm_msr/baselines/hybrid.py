"""Hybrid: other recommenders' scores, combined by weights that validation users choose.

The parts are recommenders by their registry names; they are fitted here, on the same fold, and
`_blending/blend.py` learns from the validation candidates how to join their scores. Where one part
does better there without the others, it speaks alone, so that a hybrid is not significantly below
its best part. Unknown users and items get what the parts make of them.

Models that are no baselines take part by their scores (`join`): so the stage "score" adds the
MLLM, and this row of the table tells what it adds to what collaboration knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast, final

import numpy as np
import numpy.typing as npt
import polars as pl

from mllm_msr import registry
from mllm_msr.baselines import _factory
from mllm_msr.baselines._ensemble.precomputed_scores import PrecomputedScores
from mllm_msr.baselines._ensemble.stacking import Blend, equal_blend, fit_blend
from mllm_msr.baselines._factory import Places
from mllm_msr.baselines._shared.catalog import CHUNK, catalog_of, item_codes
from mllm_msr.baselines._shared.state import damaged, unfitted
from mllm_msr.errors import SettingsError
from mllm_msr.interfaces import CatalogScorer, Recommender, TrainingData
from mllm_msr.storage.atomic import write_text
from mllm_msr.tables import SCORES

_FILE: Final = "hybrid.json"
_NAME: Final = "hybrid"


@final
class Hybrid(Recommender):
    """Several recommenders in one.

    Args:
        parts: Two or more names of `mllm-msr list baselines`, distinct.
        settings: Constructor arguments of parts, by their names.
        places: Where the parts may keep vectors and training states.
        seed: Seed of the parts and of the division of validation users.

    Attributes:
        blend: The combination, once fitted: weights, and how likely each part and their sum made
            validation users' choices.

    Raises:
        SettingsError: Fewer than two parts, a part twice, a hybrid, or settings of no part.
        UnknownNameError: There is no such baseline.
    """

    def __init__(
        self,
        *,
        parts: Sequence[str] = ("sasrec", "item_knn", "transitions", "content_knn"),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        places: Places | None = None,
        seed: int = 0,
    ) -> None:
        settings = settings or {}
        problems = []
        if len(parts) < 2 or len(set(parts)) < len(parts):
            problems.append(f"parts must be two or more distinct names, they are {list(parts)}")
        if _NAME in parts:
            problems.append("parts must be other models, hybrid is among them")
        if strangers := sorted(set(settings) - set(parts)):
            problems.append(f"settings must belong to parts, {', '.join(strangers)} is none")
        if problems:
            raise SettingsError(problems)
        self._classes = {part: _recommender(part) for part in parts}
        self._settings = {part: dict(settings.get(part, {})) for part in parts}
        self._places = places
        self._seed = seed
        self._told: dict[str, PrecomputedScores] = {}
        self._models: dict[str, Recommender] = {}
        self._catalog: tuple[str, ...] = ()
        self.blend: Blend | None = None

    def join(self, scores: Mapping[str, pl.DataFrame]) -> Self:
        """Take in models that scored elsewhere; see `interfaces.Joiner`.

        Candidates without their scores are then refused, by `score_catalog` as well.
        """
        if doubled := sorted(set(scores) & set(self._classes)):
            raise SettingsError([f"parts must be other models, {', '.join(doubled)} joins already"])
        self._told = {name: PrecomputedScores(frame, model=name) for name, frame in scores.items()}
        return self

    def fit(self, data: TrainingData) -> Self:
        """Fit every part, then the weights on validation candidates.

        Without validation candidates the parts' normal scores count alike.
        """
        fitted = {
            part: _factory.make(part, {"seed": self._seed, **given}, places=self._places).fit(data)
            for part, given in self._settings.items()
        }
        self._models = {**self._told, **fitted}
        self._catalog = catalog_of(data)
        validation = data.candidates.filter(pl.col("split") == "validation")
        rows = data.candidates if validation.is_empty() else validation
        scores = {
            part: model.score(rows, data.interactions).select(*SCORES)
            for part, model in self._models.items()
        }
        self.blend = (
            equal_blend(scores) if validation.is_empty() else fit_blend(scores, seed=self._seed)
        )
        return self

    @property
    def catalog(self) -> Sequence[str]:
        """Item ids, in the order of `score_catalog`'s columns."""
        return self._catalog

    def score_catalog(
        self, users: pl.DataFrame, interactions: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, npt.NDArray[np.float32]]]:
        """All items' joint scores; see `interfaces.CatalogScorer`."""
        blend = self._fitted()
        for chunk in users.iter_slices(CHUNK):
            scores = {
                part: _all_scores(model, chunk, interactions, self._catalog)
                for part, model in self._models.items()
            }
            yield chunk, blend.combine(scores).astype(np.float32)

    def score(self, candidates: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
        """Each candidate's joint score, any real number."""
        blend = self._fitted()
        scores = {
            part: model.score(candidates, interactions)["score"].to_numpy()
            for part, model in self._models.items()
        }
        return candidates.with_columns(pl.Series("score", blend.combine(scores)))

    def save(self, folder: Path) -> None:
        """Write each part into a folder of its name, and the weights as JSON."""
        blend = self._fitted()
        for part, model in self._models.items():
            model.save(folder / part)
        state = {
            "settings": self._settings,
            "seed": self._seed,
            "told": list(self._told),
            "catalog": list(self._catalog),
            "blend": blend.to_json(),
        }
        write_text(folder / _FILE, json.dumps(state, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        try:
            state = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            settings = state["settings"]
            loaded = cls(parts=tuple(settings), settings=settings, seed=state["seed"])
            loaded._catalog = tuple(map(str, state["catalog"]))
            loaded.blend = Blend.from_json(state["blend"])
            told = [str(name) for name in state["told"]]
        except (OSError, ValueError, KeyError, TypeError, SettingsError) as cause:
            raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
        loaded._told = {name: PrecomputedScores.load(folder / name) for name in told}
        loaded._models = loaded._told | {
            part: part_class.load(folder / part) for part, part_class in loaded._classes.items()
        }
        return loaded

    def _fitted(self) -> Blend:
        if self.blend is None:
            raise unfitted(_NAME)
        return self.blend


def _recommender(name: str) -> type[Recommender]:
    return cast("type[Recommender]", registry.find("baselines", name))


def _all_scores(
    model: Recommender, users: pl.DataFrame, interactions: pl.DataFrame, catalog: Sequence[str]
) -> npt.NDArray[np.floating]:
    """A part's scores of a catalog that need not be its own: [n_users, n_items]."""
    if isinstance(model, CatalogScorer):
        columns = item_codes(pl.Series(catalog, dtype=pl.String), model.catalog)
        if (columns >= 0).all():
            chunks = [
                scores[:, columns] for _, scores in model.score_catalog(users, interactions)
            ]
            return np.concatenate(chunks)
    items = pl.DataFrame({"item_id": catalog}, schema={"item_id": pl.String})
    crossed = users.select("user_id", "position").join(items, how="cross")
    scores = model.score(crossed, interactions)["score"].to_numpy()
    return scores.reshape(users.height, len(catalog))
