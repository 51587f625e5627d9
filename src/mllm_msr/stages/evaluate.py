"""Stage "evaluate": scores become metrics per user, means, intervals and tests."""

from __future__ import annotations

import json

from mllm_msr.evaluation.evaluator import evaluate_scores
from mllm_msr.workspace import Workspace


def run(work: Workspace) -> None:
    """Judge every model that has scored."""
    models = work.scored_models()
    inputs = [f"{kind}/{name}" for name in models for kind in ("scores", "ranks")]
    arguments = work.settings.evaluate.model_dump(mode="json")
    with work.stage("evaluate", arguments, inputs=inputs) as stage:
        if stage.finished:
            return
        found = evaluate_scores(
            {name: work.run.read(f"scores/{name}") for name in models},
            ranks={name: work.run.read(f"ranks/{name}") for name in models},
            **arguments,
        )
        stage.write("metrics_per_user", found.per_user)
        stage.write_text("metrics.json", json.dumps(found.summary, indent=2))
        stage.write_text("details.json", json.dumps(found.details, indent=2))
        stage.count(models=len(models))
