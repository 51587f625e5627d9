"""Weights of lists: how a list combines the candidate generators and the ranker's P(yes).

`mllm-msr fit-lists` fits them on validation users (`recommend/fit_lists.py`) and writes one file
per fold, which is read here. `choose_plan` decides how the lists of a run are made: with these
weights, by rank fusion with fixed weights, or in the order of P(yes).
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
import numpy.typing as npt

from mllm_msr.baselines import _factory
from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.retrieve_settings import DEFAULT_BUDGET
from mllm_msr.config.settings import Settings
from mllm_msr.errors import DamagedFileError, RunFolderError, StaleStageError
from mllm_msr.pipeline.context import RunContext, changed, prompt_settings
from mllm_msr.pipeline.recommenders import Recommenders
from mllm_msr.recommend.profiles import Profile
from mllm_msr.recommend.rank_fusion import Candidate, Floats, Weight
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.storage.verification import load_json

logger = logging.getLogger(__name__)

# Scores of a user's items, and reasons for missing ones.
Answer = tuple[dict[str, float], dict[str, str]]

FORMAT: Final = 1
# Candidates that are scored before it is checked again whether others can reach the list.
CHUNK: Final = 10
# Probabilities closer to 0 or 1 have no more weight than this.
_MIN: Final = 1e-6
_BUDGET_IS_SET: Final = "The number of calls is set by retrieve.budget."
# Settings of section `retrieve` that the candidates depend on.
_RETRIEVE: Final = ("generators", "collaborative", "encoder", "recent_share", "depth")


@final
@dataclass(frozen=True, slots=True)
class ListWeights:
    """Fitted weights. The value of a candidate is its logarithmic odds, up to a constant.

    Attributes:
        generators: Weights of the candidate generators by name.
        scale: Weight of their sum beside the ranker.
        slope: Weight of the logit of the ranker's calibrated P(yes), not negative.
        bound: Contribution of the ranker that few candidates exceed.
        budget: Number of candidates that the ranker scores.
        reason: Why this budget was chosen, as a sentence.
    """

    generators: Mapping[str, Weight]
    scale: float
    slope: float
    bound: float
    budget: int
    reason: str

    def values(self, candidates: Sequence[Candidate], scores: Mapping[str, float]) -> Floats:
        """Return the value of each candidate, [n_candidates]; P(yes) is missing for some.

        The ranker redistributes the probability among the candidates that it has scored. Together
        they are as probable as before, so that they are comparable with the others.
        """
        values = self.scale * np.array([one.relevance for one in candidates], dtype=np.float64)
        rows = [row for row, one in enumerate(candidates) if one.item_id in scores]
        if rows:
            before = values[rows]
            after = before + self.slope * log_odds(
                [scores[candidates[row].item_id] for row in rows]
            )
            values[rows] = after + np.logaddexp.reduce(before) - np.logaddexp.reduce(after)
        return values

    def is_settled(
        self, candidates: Sequence[Candidate], scores: Mapping[str, float], *, n_read: int, k: int
    ) -> bool:
        """Return whether no further candidate is likely to reach or leave the first `k`.

        Args:
            candidates: Candidates that may be scored, the most relevant first.
            scores: P(yes) of candidates that were scored.
            n_read: Number of candidates, from the first, whose prompts the ranker has read.
            k: Length of the list.
        """
        if n_read >= len(candidates):
            return True
        values = self.values(candidates, scores)
        last = np.partition(values, -k)[-k] if k <= len(values) else -np.inf
        reachable = self.scale * candidates[n_read].relevance + max(self.bound, 0.0)
        return bool(reachable < last)


def log_odds(probabilities: npt.ArrayLike) -> Floats:
    """Return the logits of probabilities, which are limited to [1e-6, 1 - 1e-6]."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), _MIN, 1 - _MIN)
    return np.log(p / (1 - p))


@dataclass(frozen=True, slots=True)
class ListPlan:
    """How the lists of a model are made.

    Attributes:
        order: Order of the scored candidates, see `lists.build_list`.
        budget: Number of candidates that the ranker scores by default.
        reason: Why, and how to change it: sentences that follow those about order and budget.
        weights: The weights, with the order "fitted".
        adaptive: Whether scoring stops when the list is settled, see `ListWeights.is_settled`.
    """

    order: Literal["fitted", "fusion", "model"]
    budget: int
    reason: str
    weights: ListWeights | None = None
    adaptive: bool = False

    def generator_weights(self, recent_weight: float) -> Mapping[str, Weight]:
        """Return the weights of the candidate generators.

        Args:
            recent_weight: Weight of recent popularity in rank fusion.
        """
        if self.weights is not None:
            return self.weights.generators
        return fixed_weights(recent_weight)

    def is_settled(
        self, candidates: Sequence[Candidate], scores: Mapping[str, float], *, n_read: int, k: int
    ) -> bool:
        """Return whether no further candidate has to be scored, see `ListWeights.is_settled`."""
        if n_read >= len(candidates):
            return True
        if self.weights is None or not self.adaptive:
            return False
        return self.weights.is_settled(candidates, scores, n_read=n_read, k=k)

    def __str__(self) -> str:
        """Return sentences about the order of lists, the calls of the model, and why."""
        orders = {
            "fitted": "the fitted weights of the run",
            "fusion": "rank fusion with fixed weights",
            "model": "P(yes), the score of the model",
        }
        until = "at most " if self.adaptive and self.weights is not None else ""
        calls = f"The model scores {until}{self.budget} candidates per list, one call each."
        return (
            f"Lists are ordered by {orders[self.order]}. "
            f"{calls if self.budget else 'The model is not called.'} {self.reason}"
        )

    def n_candidates(self, *, k: int, budget: int) -> int:
        """Return how many candidates a list of `k` items needs."""
        # With fitted weights, candidates without a score may replace scored ones.
        return budget + k if self.weights is not None else max(k, budget)

    def chunk(self, n_candidates: int) -> int:
        """Return how many of the candidates are scored at a time."""
        return CHUNK if self.adaptive and self.weights is not None else max(n_candidates, 1)


def score_until_settled(
    plan: ListPlan,
    requests: Sequence[tuple[Profile, Sequence[Candidate]]],
    score: Callable[[Sequence[tuple[Profile, Sequence[str]]]], Sequence[Answer]],
    *,
    k: int,
) -> list[Answer]:
    """Score candidates until the list of each user is settled.

    Args:
        plan: How the lists are made. Unless it is adaptive, all candidates are scored at once.
        requests: Users and their candidates.
        score: Scores items of several users, and returns for each user the scores by item, and the
            reasons for missing ones.
        k: Length of the lists.

    Returns:
        What `score` has returned, by user.
    """
    results: list[Answer] = [({}, {}) for _ in requests]
    size = plan.chunk(max((len(candidates) for _, candidates in requests), default=0))
    active, start = list(range(len(requests))), 0
    while active := [
        at
        for at in active
        if not plan.is_settled(requests[at][1], results[at][0], n_read=start, k=k)
    ]:
        parts = [
            (requests[at][0], [one.item_id for one in requests[at][1][start : start + size]])
            for at in active
        ]
        for at, (scores, failures) in zip(active, score(parts), strict=True):
            results[at][0].update(scores)
            results[at][1].update(failures)
        start += size
    return results


def fixed_weights(recent_weight: float) -> Mapping[str, Weight]:
    """Return the weights of rank fusion: 1 for all generators but recent popularity."""
    return {"recent": Weight(recent_weight)}


def without_weights(
    settings: Settings,
    reason: str = "The number of calls is the default; retrieve.budget sets another one.",
) -> ListPlan:
    """Return the plan of a model without fitted weights.

    Args:
        settings: Settings of the run.
        reason: Reason of the order and of the default budget, as in `ListPlan`.
    """
    retrieve = settings.retrieve
    order: Literal["fusion", "model"] = "model" if retrieve.order == "model" else "fusion"
    if retrieve.budget is not None:
        return ListPlan(order, retrieve.budget, _BUDGET_IS_SET)
    return ListPlan(order, DEFAULT_BUDGET, reason)


def plan_beside(served: ListPlan, own: ListPlan, settings: Settings) -> ListPlan:
    """Return the plan of another run's model, which scores the candidates of the served run.

    The fitted weight of a model is beside the fitted values of candidates. Without those of the
    served run, the model's ranking is fused with that of the candidates.

    Args:
        served: Plan of the served run.
        own: Plan of the other run.
        settings: Settings of the other run.
    """
    if own.weights is not None and served.weights is None:
        return without_weights(settings)
    return own


def choose_plan(run: RunFolder, settings: Settings, fold: int) -> ListPlan:
    """Return how the lists of a run are made.

    Args:
        run: The run.
        settings: Its settings.
        fold: Fold of the weights.

    Raises:
        RunFolderError: `retrieve.order=fitted`, but the run has no weights.
        StaleStageError: `retrieve.order=fitted`, but the weights belong to another ranker or other
            candidates.
        DamagedFileError: The file of the weights is damaged.
    """
    order = settings.retrieve.order
    if order in ("fusion", "model"):
        return without_weights(settings)
    name = file_name(fold)
    fit = f"mllm-msr fit-lists --run {run.folder}"
    if not run.has(name):
        if order == "fitted":
            raise RunFolderError(
                f"retrieve.order=fitted, but fold {fold} of the run {run.folder} has no fitted "
                f"weights. Run '{fit}', or set retrieve.order=auto."
            )
        return without_weights(
            settings,
            "Order and number of calls are the defaults, because the run has no fitted weights: "
            f"'{fit}' fits both to its users, and retrieve.budget sets the number.",
        )
    weights, fitted_for = read_weights(run, fold)
    if problem := _mismatch(run, settings, fold, fitted_for):
        fix = f"Run '{fit} --force', or set retrieve.order=fusion."
        if order == "fitted":
            raise StaleStageError(f"The weights of lists cannot be used: {problem}. {fix}")
        logger.warning("The weights of lists are ignored: %s. %s", problem, fix)
        return without_weights(
            settings,
            "Order and number of calls are the defaults, because the fitted weights cannot be used "
            f"({problem}): '{fit} --force' fits them again.",
        )
    budget, reason = weights.budget, weights.reason
    if settings.retrieve.budget is not None:
        budget, reason = settings.retrieve.budget, _BUDGET_IS_SET
    # A diverse list may contain any candidate, so it is never settled early.
    adaptive = settings.retrieve.adaptive and not settings.retrieve.diversity
    return ListPlan("fitted", budget, reason, weights, adaptive)


def file_name(fold: int) -> str:
    """Return the path of the weights of a fold inside the run folder."""
    return f"{layout.LISTS}/{fold}.json"


def candidate_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that the candidates depend on, which fitted weights belong to."""
    generators = candidate_generators(settings)
    chosen = settings.retrieve.model_dump(mode="json", include=set(_RETRIEVE))
    chosen["generators"] = list(generators)
    named = [name for name in generators.values() if name is not None]
    members = [
        member
        for name in named
        for member in _factory.member_names(name, settings.baselines.arguments(name))
    ]
    arguments: dict[str, Any] = {
        name: settings.baselines.arguments(name) for name in [*named, *members]
    }
    if named:
        arguments |= changed(settings.baselines, "", include=["content"])
    plain: dict[str, Any] = json.loads(json.dumps({**chosen, "baselines": arguments}, default=str))
    return plain


def read_weights(run: RunFolder, fold: int) -> tuple[ListWeights, dict[str, Any]]:
    """Return the weights of a fold, and the settings of the candidates that they belong to.

    Raises:
        RunFolderError: The run has none.
        DamagedFileError: The file is damaged.
    """
    path = run.verified(file_name(fold))
    try:
        content = load_json(path.read_text(encoding="utf-8"))
        return _parse(content), dict(content["settings"])
    # Infinity is no integer, and a list has no `items`.
    except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as cause:
        raise DamagedFileError(
            f"{path} cannot be read ({type(cause).__name__}: {cause}). Run 'mllm-msr fit-lists "
            f"--run {run.folder} --force' to fit the weights again."
        ) from cause


def _parse(content: Mapping[str, Any]) -> ListWeights:
    """Return the weights in the content of a file.

    Raises:
        ValueError: A value is invalid.
    """
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']}, not {FORMAT}")
    model = content["model"]
    weights = ListWeights(
        {name: Weight(**weight) for name, weight in content["generators"].items()},
        scale=float(model["scale"]),
        slope=float(model["slope"]),
        bound=float(model["bound"]),
        budget=int(content["budget"]),
        reason=str(content["reason"]),
    )
    numbers = [*itertools.chain(*weights.generators.values()), weights.scale, weights.slope]
    if not np.isfinite([*numbers, weights.bound]).all() or min(*numbers, weights.budget) < 0:
        raise ValueError("a weight is negative or not finite")
    return weights


def _mismatch(run: RunFolder, settings: Settings, fold: int, fitted_for: Mapping[str, Any]) -> str:
    """Return why fitted weights do not belong to the run as it is; empty if they do."""
    current = candidate_settings(settings)
    changed = [key for key in current if current[key] != fitted_for.get(key)]
    if changed:
        names = [key if key == "baselines" else f"retrieve.{key}" for key in changed]
        return f"{' and '.join(names)} changed after they were fitted"
    stages = run.stages
    fitted = stages[f"{layout.FIT_LISTS}/{fold}"]
    inputs = fitted["inputs"]
    # A fine-tuned ranker may be served by an endpoint as one that is not fine-tuned here.
    weights = Recommenders(RunContext(run), settings).weights(fold)
    if settings.train.enabled and weights not in inputs:
        return "they were fitted before the ranker was fine-tuned"
    current = prompt_settings(settings)
    known = {
        name: value
        for name, value in fitted["settings"].items()
        if name.startswith(("train.", "recommend."))
    }
    if differing := [name for name in current | known if current.get(name) != known.get(name)]:
        return f"{' and '.join(differing)} changed after they were fitted"
    for name, sha256 in inputs.items():
        output = manifest.find(stages, name)
        if output is None or output.sha256 != sha256:
            return f"{name} changed after they were fitted"
    return ""
