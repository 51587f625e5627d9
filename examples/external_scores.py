"""Evaluate the scores of a program of your own beside those of a run, on the same candidates.

    python examples/external_scores.py --run runs/demo

The "program" here counts interactions and lets old ones fade. Yours may be in any language: it
reads `candidates.parquet` and writes a table with the columns user_id, item_id and score
(`mllm-msr evaluate --candidates FILE --scores FILE`).
"""

from __future__ import annotations

import argparse

import polars as pl

from mllm_msr import Pipeline, evaluate_scores

DAY = 24 * 3600 * 1000  # in milliseconds


def main() -> None:
    """Score the candidates, and print the metrics of both models and their difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo")
    parser.add_argument("--model", default="mllm_msr", help="model of the run to compare with")
    parser.add_argument("--half-life", type=float, default=30, help="in days")
    arguments = parser.parse_args()

    with Pipeline.open(arguments.run) as pipeline:
        candidates = pipeline.tables.candidates(0, "test")
        # Only what models may learn from: targets are hidden.
        visible = pipeline.tables.training_data(0).interactions
        theirs = pl.read_parquet(pipeline.run.folder / f"scores/{arguments.model}.parquet")

    age = (pl.col("timestamp").max() - pl.col("timestamp")) / (DAY * arguments.half_life)
    counts = visible.with_columns(weight=0.5**age).group_by("item_id").agg(pl.col("weight").sum())
    mine = candidates.join(counts, on="item_id", how="left").with_columns(
        score=pl.col("weight").fill_null(0)
    )

    scores = {"recent_popularity": mine, arguments.model: theirs.filter(fold=0)}
    evaluation = evaluate_scores(scores, main=arguments.model)
    for model, kinds in evaluation.summary.items():
        for kind, metrics in kinds.items():
            auc = metrics["auc"]
            print(
                f"{model:20} {kind:11} AUC {auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
            )
    for one in evaluation.details["comparisons"]:
        if one["metric"] == "auc":
            print(
                f"{one['first']} - {one['second']}, {one['negatives']}: "
                f"{one['difference']:+.3f}, p = {one['p']:.3f}"
            )


if __name__ == "__main__":
    main()
