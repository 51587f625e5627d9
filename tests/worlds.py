"""Small synthetic dataset as files for the dataset `files`, and settings of a run on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

# Answers of the mock backend by a phrase of the prompt.
ANSWERS = {
    "Describe the picture": "A plain square.",
    "Summarise this": "A thing.",
    "Join both": "A thing that is a plain square.",
    "preferences": "The user appears to have a preference for things.",
}


def write_files(folder: Path, *, n_users: int = 12, n_items: int = 30, seed: int = 0) -> Path:
    """Write interactions of users with 6 to 8 random items, and items, half of them with images."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    rows = [
        {"user_id": f"user{user}", "item_id": f"item{item}", "timestamp": 1000 * user + step}
        for user in range(n_users)
        for step, item in enumerate(rng.permutation(n_items)[: rng.integers(6, 9)])
    ]
    pl.DataFrame(rows).write_csv(folder / "interactions.csv")
    items = [
        {"item_id": f"item{i}", "title": f"Thing {i}", "text": "A text."} for i in range(n_items)
    ]
    pl.DataFrame(items).write_csv(folder / "items.csv")
    for i in range(0, n_items, 2):
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        Image.new("RGB", (16, 16), color).save(folder / "images" / f"item{i}.png")
    return folder


def settings(folder: Path, *more: str) -> list[str]:
    """Return overrides for a fast run on the files with the mock backend and without training."""
    answers = "{" + ", ".join(f'"{key}": "{value}"' for key, value in ANSWERS.items()) + "}"
    return [
        "dataset=files",
        f"data.path={folder}",
        "data.min_user_interactions=2",
        "data.min_item_interactions=1",
        "data.n_negatives=10",
        "data.folds=3",
        "model.backend=mock",
        f"model.answers={answers}",
        "train.enabled=false",
        "evaluate.n_resamples=50",
        *more,
    ]
