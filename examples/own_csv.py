"""Run the method on CSV files of your own, and recommend.

    python examples/write_shop.py shop          # or your own files, see docs/own-data.md
    python examples/own_csv.py --data shop --run runs/shop

The small pretrained model (`make small`) ranks items by the titles of the history, so no summaries
and preferences are written. That is the cheapest setting; docs/tutorials/gpu.md has the whole
method.
"""

from __future__ import annotations

import argparse

from mllm_msr import MllmMsr, Pipeline


def main() -> None:
    """Run all stages, and print the results and a list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shop", help="folder with interactions.csv and items.csv")
    parser.add_argument("--run", default="runs/shop")
    parser.add_argument("--backend", default="smollm", help="smollm, or demo to try the files only")
    parser.add_argument("--targets", type=int, default=200, help="training targets")
    arguments = parser.parse_args()

    settings = {
        "dataset": "files",
        "data.path": arguments.data,
        "item_type": "book/books/read/read",
        "data.run_folds": [0],  # one of five folds
        "data.negatives": ["uniform"],
        "model.backend": arguments.backend,
        "recommend.reads": "history",  # titles instead of a written preference
        "recommend.order": "user-first",
        "summarize.enabled": False,
        "infer.enabled": False,
        "train.objective": "listwise",
        "train.negatives_per_positive": 4,
        "train.max_targets": arguments.targets,
        "train.epochs": 1,
        "train.learning_rate": 2e-4,
        "score.baselines": ["popularity", "item_knn"],
    }
    with Pipeline.open(arguments.run, settings) as pipeline:
        pipeline.run_all()  # resumes if it was stopped, and skips what is finished
        table = pipeline.result().to_polars().filter(metric="auc")
        print(table.select("label", "mean", "low", "high").sort("mean", descending=True))
        print(pipeline.report().path)
    with MllmMsr.from_run(arguments.run) as model:
        user = next(iter(model.users))
        print(model.recommend(user, 5))


if __name__ == "__main__":
    main()
