"""Fitting of the weights of lists on validation users: `mllm-msr fit-lists`.

The steps are, for each fold:

1. The candidate generators propose items to validation users, whose targets are hidden.
2. The weights of the generators are fitted (`conditional_logit.py`).
3. The ranker scores the first candidates of each user, and its slope is fitted.
4. The lists are evaluated at several numbers of calls, each user with weights that were fitted on
   other users. The smallest number that is significantly better than no calls becomes the budget.

No test user takes part. `list_weights.py` reads the file and uses the weights.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.settings import Settings
from mllm_msr.data.full_ranking import sample_targets
from mllm_msr.errors import DataError
from mllm_msr.pipeline.context import RunContext, changed
from mllm_msr.pipeline.recommenders import Recommenders, ranker_name
from mllm_msr.pipeline.stage_settings import require_kept_settings, require_prepared_data
from mllm_msr.recommend.conditional_logit import ValidationList, fit_generators, fit_ranker
from mllm_msr.recommend.list_evaluation import (
    BUDGETS,
    NDCG,
    ScoredList,
    adaptive,
    quality_by_budget,
    summarize,
)
from mllm_msr.recommend.list_weights import (
    FORMAT,
    ListPlan,
    ListWeights,
    candidate_settings,
    file_name,
    fixed_weights,
    log_odds,
    without_weights,
)
from mllm_msr.recommend.rank_fusion import Floats, Weight
from mllm_msr.recommend.user_pools import (
    UserPool,
    load_hidden,
    retrieve_pools,
    score_items,
    targets_with_input,
)
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import Stage

_PARTS: Final = 5
_MIN_USERS: Final = 10
_SIGNIFICANT: Final = 0.05
# Share of users without any candidate whose contribution exceeds the bound of `retrieve.adaptive`.
_BOUND: Final = 0.9


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Options of a fit.

    Attributes:
        users: Maximum number of validation users, a seeded sample.
        budget: Number of candidates that the ranker scores for each of them.
        seed: Seed of the sample, of the parts and of the tests.
    """

    users: int = 64
    budget: int = 50
    seed: int = 0


def fit_lists(
    context: RunContext,
    settings: Settings,
    options: FitOptions | None = None,
    *,
    folds: Sequence[int] | None = None,
) -> dict[int, dict[str, Any]]:
    """Fit the weights of lists, and write them into the run folder.

    Args:
        context: A run whose ranker has been trained.
        settings: The run's settings.
        options: Options of the fit.
        folds: Folds to fit; by default all of the run.

    Returns:
        The content of the file of each fold.

    Raises:
        UsageError: The run does not have one of the folds.
        RunFolderError: A required stage has not been run.
        DataError: There are too few validation users.
        StaleStageError: The weights, or an earlier stage, were finished with other settings.
        BackendError: The model fails.
    """
    options = options or FitOptions()
    require_prepared_data(context, settings)
    require_kept_settings(context, settings, layout.FIT_LISTS)
    recommenders = Recommenders(context, settings)
    ranker = recommenders.conditions(ranker_name(settings))
    known = recommenders.tables.folds()
    folds = known if folds is None else [recommenders.tables.fold(fold) for fold in folds]
    fold_of = {recommenders.weights(fold): fold for fold in known}
    found = {}
    for fold in folds:
        inputs = [*ranker.inputs, *_generator_inputs(recommenders, settings, fold)]
        with context.stage(
            f"{layout.FIT_LISTS}/{fold}",
            {
                **ranker.settings,
                **asdict(options),
                "candidates": candidate_settings(settings),
                **changed(settings.retrieve, "retrieve.", include=["recent_weight"]),
            },
            # Of the weights, only those of the fold.
            inputs=[one for one in dict.fromkeys(inputs) if fold_of.get(one, fold) == fold],
            prompt_templates=ranker.prompt_templates,
            item_type=recommenders.item_type,
            model=ranker.model,
        ) as stage:
            if not stage.finished:
                content = _fit_fold(
                    stage, context, recommenders, settings=settings, fold=fold, options=options
                )
                stage.write_text(file_name(fold), json.dumps(content, indent=1) + "\n")
        found[fold] = context.run.read_json(file_name(fold))
    return found


def _generator_inputs(recommenders: Recommenders, settings: Settings, fold: int) -> list[str]:
    """Return the outputs of earlier stages that the candidate generators of a fold read."""
    inputs = [layout.ITEMS, layout.CANDIDATES]
    generators = candidate_generators(settings)
    if "preference" in generators and settings.infer.enabled:
        inputs.append(layout.PREFERENCES)  # which the ranker need not read
    for name in generators.values():
        if name is not None:
            inputs += recommenders.baseline_inputs(name, [fold])
    return inputs


def _fit_fold(
    stage: Stage,
    context: RunContext,
    recommenders: Recommenders,
    *,
    settings: Settings,
    fold: int,
    options: FitOptions,
) -> dict[str, Any]:
    """Fit the weights of a fold, and return the content of its file."""
    targets = targets_with_input(recommenders, settings, fold, "validation")
    targets = sample_targets(targets, options.users, seed=options.seed)
    if targets.height < _MIN_USERS:
        raise DataError(
            f"Fold {fold} has {targets.height} validation users with a preference or history, but "
            f"weights of lists need at least {_MIN_USERS}. Use data with more users, or a larger "
            "data.validation_fraction in a new run."
        )
    loaded = load_hidden(context, settings, without_weights(settings), fold)
    pools = retrieve_pools(context, loaded, targets)
    parts = _parts(len(pools), options.seed)
    fixed = pools[0].pool.weights(fixed_weights(settings.retrieve.recent_weight))
    tables = [ValidationList(one.pool.features, one.row) for one in pools]
    # Weights for each part of the users, fitted on the others.
    by_part = {part: fit_generators(_without(tables, parts, part), fixed) for part in set(parts)}
    lists = _candidate_lists(pools, [by_part[part] for part in parts])
    requests = [
        (user, [one.item_id for one in candidates[: options.budget]])
        for user, candidates in zip(pools, lists, strict=True)
    ]
    scores, usage = score_items(recommenders, settings, fold, requests)
    scored = [
        ScoredList(user.user_id, user.target, candidates, found)
        for user, candidates, found in zip(pools, lists, scores, strict=True)
    ]
    stage.count(users=len(scored), scores=sum(map(len, scores)), **usage)
    generators = {
        name: Weight(float(rank), float(score))._asdict()
        for name, (rank, score) in zip(
            pools[0].pool.names, fit_generators(tables, fixed), strict=True
        )
    }
    return {
        "format": FORMAT,
        "fold": fold,
        "users": len(scored),
        "seed": options.seed,
        "settings": candidate_settings(settings),
        "generators": generators,
        **_fit_budget(scored, parts, options),
    }


def _fit_budget(
    scored: Sequence[ScoredList], parts: Sequence[int], options: FitOptions
) -> dict[str, Any]:
    """Fit the ranker's weights, evaluate lists by budget, and choose the budget.

    Args:
        scored: Lists of the users, by generators' weights that were fitted on other users.
        parts: Part of each user.
        options: Options of the fit.
    """
    budgets = [one for one in BUDGETS if one < options.budget] + [options.budget]
    by_part = {part: _fit_ranker(_without(scored, parts, part), budgets[1:]) for part in set(parts)}
    plans = [by_part[part] for part in parts]
    frames = quality_by_budget(scored, plans, budgets)
    rows = summarize(frames, frames[0], seed=options.seed)
    budget, reason = _chosen_budget(rows, len(scored))
    stops = quality_by_budget(scored, [adaptive(plan) for plan in plans], budgets[1:])
    stopped = summarize(stops, frames[0], seed=options.seed)
    weights = _fit_ranker(scored, budgets[1:]).weights
    assert weights is not None
    return {
        "model": {"scale": weights.scale, "slope": weights.slope, "bound": weights.bound},
        "budgets": [
            {"budget": each, **row, "adaptive": stopped.get(each)} for each, row in rows.items()
        ],
        "budget": budget,
        "reason": reason,
    }


def _chosen_budget(rows: Mapping[int, Mapping[str, Any]], n_users: int) -> tuple[int, str]:
    """Return the smallest budget that is significantly better than no calls, and why.

    The largest budget is tested first, and a smaller one only if all larger ones are significantly
    better. In this fixed sequence, the tests need no correction for their number.
    """
    budgets = sorted((budget for budget in rows if budget), reverse=True)
    better = list(
        itertools.takewhile(
            lambda one: rows[one]["difference"] > 0 and rows[one]["p_value"] < _SIGNIFICANT, budgets
        )
    )
    budget = better[-1] if better else budgets[0]
    row = rows[budget]
    shown = (
        f"{NDCG.upper()} of {n_users} validation users is {row[NDCG]['mean']:.3f} instead of "
        f"{rows[0][NDCG]['mean']:.3f} without calls (p = {row['p_value']:.3f})"
    )
    if better:
        fewer = "" if budget == budgets[-1] else "; fewer are not significantly better"
        return budget, f"With {budget} calls, {shown}{fewer}."
    return 0, f"No calls, because they are not significantly better: with {budget}, {shown}."


def _fit_ranker(scored: Sequence[ScoredList], budgets: Sequence[int]) -> ListPlan:
    """Return a plan with the scale, slope and bound of the ranker, without generators."""
    values, logits, targets = [], [], []
    for one in scored:
        ids = [candidate.item_id for candidate in one.candidates]
        values.append(np.array([candidate.relevance for candidate in one.candidates]))
        logits.append(log_odds([one.scores.get(item_id, np.nan) for item_id in ids]))
        targets.append(ids.index(one.target) if one.target in ids else None)
    scale, slope = fit_ranker(values, logits, targets, budgets=budgets)
    weights = ListWeights({}, scale, slope, bound=0.0, budget=0, reason="")
    highest = [
        (weights.values(one.candidates, one.scores) - scale * value).max(initial=0.0)
        for one, value in zip(scored, values, strict=True)
    ]
    bound = float(np.quantile(highest, _BOUND))
    return ListPlan("fitted", max(budgets), "", replace(weights, bound=bound))


def _candidate_lists(pools: Sequence[UserPool], weights: Sequence[Floats]) -> list[Any]:
    """Return the candidates of each user with the generators' weights for the user."""
    return [
        user.pool.candidates(
            {
                name: Weight(float(rank), float(score))
                for name, (rank, score) in zip(user.pool.names, table, strict=True)
            }
        )
        for user, table in zip(pools, weights, strict=True)
    ]


def _parts(n_users: int, seed: int) -> list[int]:
    """Return the part of each user, a seeded partition into equal parts."""
    shuffled = np.random.default_rng(seed).permutation(n_users)
    parts: list[int] = (shuffled % _PARTS).tolist()
    return parts


def _without(values: Sequence[Any], parts: Sequence[int], part: int) -> list[Any]:
    """Return the values of the users that are not in a part."""
    return [value for value, own in zip(values, parts, strict=True) if own != part]
