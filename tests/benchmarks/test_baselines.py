"""The benchmark `baselines` on a small run folder with a deterministic order of items."""

from pathlib import Path

import polars as pl
import pytest

from benchmarks import baselines
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.splits import split_users
from mllm_msr.tables import INTERACTIONS, ITEMS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a prepared run folder in which each item is always followed by the same one."""
    rows = [
        (f"u{u}", f"i{(u + position) % 12}", position, position)
        for u in range(40)
        for position in range(6)
    ]
    interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    splits = split_users(interactions)
    items = [(f"i{number}", "", "", None) for number in range(12)]
    tables = {
        "interactions": interactions,
        "splits": splits,
        "candidates": draw_candidates(interactions, splits, folds=[0], n_negatives=3),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_cost_and_quality_of_a_baseline_are_measured(folder: Path) -> None:
    settings = {"epochs": 20, "batch_size": 8, "learning_rate": 0.02, "hidden": 16}
    found = baselines._measure_ours(folder, "gru4rec", 0, settings, 1)
    assert found["processor_per_epoch"] >= 0
    assert 0 < found["peak_gb"] < 6
    # 5 of 12 items are excluded. With the other 7, HR@10 is always 1, but NDCG@10 is not.
    assert found["hr@10"] == 1.0
    assert found["ndcg@10"] > 0.9


def test_each_test_user_has_one_hidden_target(folder: Path) -> None:
    visible, users, targets = baselines._read_fold(folder, 0)
    assert targets["user_id"].is_unique().all()
    assert not users & set(targets["user_id"])
    shared = visible.join(targets, on=["user_id", "position"])
    assert shared.is_empty()
