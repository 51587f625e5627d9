"""Run whose users continue sequences of numbered items, and a mock model that knows them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import polars as pl
import pytest

import worlds
from mllm_msr.backends import mock
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.types import Prompt

N_ITEMS = 40
N_USERS = 40
SETTINGS = (
    "data.time_unit=rank",
    "data.folds=2",
    "data.run_folds=[0]",
    "data.validation_fraction=0.6",
    "summarize.enabled=false",
    "infer.enabled=false",
    "recommend.reads=history",
    "recommend.use_images=false",
    "retrieve.generators=[preference, recent]",
)


def make_run(folder: Path, *overrides: str, changed: Collection[str] = ()) -> Path:
    """Prepare a run with twelve validation users.

    Args:
        folder: Folder of the data and of the run.
        overrides: Further settings.
        changed: Users whose last interaction is with another item.
    """
    data = worlds.write_files(folder / "data", n_items=N_ITEMS)
    rows = []
    for user in range(N_USERS):
        for step in range(6):
            jump = 20 if step == 5 and f"user{user}" in changed else 0
            rows.append((f"user{user}", f"item{(user * 7 + step + jump) % N_ITEMS}", step))
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(data / "interactions.csv")
    settings = load_settings(
        "default", worlds.settings(data, *SETTINGS, *overrides), environment={}
    )
    with Pipeline.open(folder / "run", settings) as pipeline:
        pipeline.run_stage("prepare")
    return folder / "run"


class Oracle:
    """Model that says yes to the item that follows the latest one.

    Attributes:
        n_prompts: Number of scored prompts.
        knows: Whether it knows the next item; otherwise, it says the same to all.
    """

    def __init__(self) -> None:
        self.n_prompts = 0
        self.knows = True

    def probabilities(self, prompt: Prompt) -> tuple[float, float]:
        """Return the probabilities of yes and no."""
        self.n_prompts += 1
        text = prompt.text
        latest, item = (
            int(re.findall(rf'{words}: "Thing (\d+)', text)[0]) for words in ("first", "item")
        )
        follows = self.knows and (item - latest) % N_ITEMS == 1
        return (0.99, 0.01) if follows else (0.1, 0.9)


def install(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """Let the mock backend answer as an oracle."""
    oracle = Oracle()
    monkeypatch.setattr(
        mock.MockBackend,
        "_probabilities",
        lambda self, prompt, n_choices: oracle.probabilities(prompt),
    )
    return oracle
