"""Stage "evaluate": scores become metrics per user, means, intervals, tests and slices."""

from __future__ import annotations

import json

import polars as pl

from mllm_msr.data.splits import visible_interactions
from mllm_msr.evaluation.evaluator import Context, evaluate_scores
from mllm_msr.evaluation.test_users import build_cases, item_popularity
from mllm_msr.pipeline.context import Workspace


def run(work: Workspace) -> None:
    """Judge every model that has scored."""
    models = work.scored_models()
    # Runs that were scored before there were lists of the top have none.
    listed = [name for name in models if work.run.has(f"top/{name}")]
    inputs = [
        *(f"{kind}/{name}" for name in models for kind in ("scores", "ranks")),
        *(f"top/{name}" for name in listed),
        *("interactions", "items", "splits", "candidates"),
    ]
    arguments = work.settings.evaluate.model_dump(mode="json")
    with work.stage("evaluate", arguments, inputs=inputs) as stage:
        if stage.finished:
            return
        context = _context(work, listed)
        found = evaluate_scores(
            {name: work.run.read(f"scores/{name}") for name in models},
            ranks={name: work.run.read(f"ranks/{name}") for name in models},
            context=context,
            **arguments,
        )
        stage.write("cases", context.cases)
        stage.write("metrics_per_user", found.per_user)
        stage.write_text("metrics.json", json.dumps(found.summary, indent=2))
        stage.write_text("details.json", json.dumps(found.details, indent=2))
        stage.count(models=len(found.summary))


def _context(work: Workspace, listed: list[str]) -> Context:
    """What the folds' visible data say of users and items."""
    interactions, splits = work.run.read("interactions"), work.run.read("splits")
    item_ids, folds = work.run.read("items")["item_id"], work.folds()
    popularity = pl.concat(
        item_popularity(visible_interactions(interactions, splits, fold)[0], item_ids, fold=fold)
        for fold in folds
    )
    positive = (pl.col("split") == "test") & (pl.col("label") == 1)
    targets = work.run.scan("candidates").filter(positive).collect()
    return Context(
        cases=build_cases(
            targets.unique(["fold", "user_id"], keep="any"), interactions, popularity=popularity
        ),
        popularity=popularity,
        top={name: work.run.read(f"top/{name}") for name in listed},
    )
