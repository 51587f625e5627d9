"""Run the whole method with a backend of your own, found by its name.

    pip install --no-deps examples/plugins
    python examples/write_shop.py shop
    python examples/own_backend.py --data shop --run runs/words

The package in `examples/plugins` registers the backend `words` (`shop_plugins/words_backend.py`).
It follows rules instead of asking a model; replace its two methods by calls of yours. Settings,
caching, resuming and the service then work as for the backends of this package.
"""

from __future__ import annotations

import argparse

from mllm_msr import MllmMsr, Pipeline, registry


def main() -> None:
    """Run all stages with the backend, and print the results and a list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="shop")
    parser.add_argument("--run", default="runs/words")
    arguments = parser.parse_args()

    print(registry.describe("backends", "words"))
    settings = {
        "dataset": "files",
        "data.path": arguments.data,
        "data.run_folds": [0],
        "data.negatives": ["uniform"],
        "model.backend": "words",
        "model.n_words": 6,  # an argument of its constructor
        "train.enabled": False,  # it has no weights
        "score.baselines": ["popularity"],
    }
    with Pipeline.open(arguments.run, settings) as pipeline:
        pipeline.run_all()
        table = pipeline.result().to_polars().filter(metric="auc")
        print(table.select("label", "mean", "low", "high").sort("mean", descending=True))
    with MllmMsr.from_run(arguments.run) as model:
        print(model.recommend(next(iter(model.users)), 5))


if __name__ == "__main__":
    main()
