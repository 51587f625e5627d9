"""Compare a baseline of your own with others, also by a metric of your own.

    pip install --no-deps examples/plugins
    python examples/own_baseline_and_metric.py --run runs/demo

The package in `examples/plugins` registers the baseline `last_seen` and the metric `relative_rank`.
Every table of this package then knows them; the command line does as well:

    mllm-msr compare --models last_seen,item_knn --run runs/demo
"""

from __future__ import annotations

import argparse

from mllm_msr import Pipeline, compare


def main() -> None:
    """Compare the baselines, and print two metrics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo")
    arguments = parser.parse_args()

    with Pipeline.open(arguments.run) as pipeline:
        result = compare(pipeline, ["last_seen", "item_knn", "popularity"])
    table = result.to_polars().filter(negatives="uniform")
    for metric in ("auc", "relative_rank"):
        for row in table.filter(metric=metric).iter_rows(named=True):
            print(f"{metric:14} {row['label']:12} {row['mean']:.3f}")


if __name__ == "__main__":
    main()
