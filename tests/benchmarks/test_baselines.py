from pathlib import Path

import polars as pl
import pytest

from benchmarks import baselines
from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.splits import split_users
from mllm_msr.tables import INTERACTIONS, ITEMS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prepared run folder in which items follow each other on a ring."""
    rows = [(f"u{u}", f"i{(u + at) % 12}", at, at) for u in range(40) for at in range(6)]
    interactions = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    splits = split_users(interactions)
    items = [(f"i{at}", "", "", None) for at in range(12)]
    tables = {
        "interactions": interactions,
        "splits": splits,
        "candidates": draw_candidates(interactions, splits, folds=[0], n_negatives=3),
        "items": pl.DataFrame(items, schema=dict(ITEMS), orient="row"),
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_our_side_gives_cost_and_quality(folder: Path) -> None:
    settings = {"epochs": 20, "batch_size": 8, "learning_rate": 0.02, "hidden": 16}
    found = baselines._ours(folder, "gru4rec", 0, settings, 1)
    assert found["processor_per_epoch"] >= 0
    assert 0 < found["peak_gb"] < 6
    # 12 items of which 5 are seen leave 7: being among the first ten says nothing, the rank does.
    assert found["hr@10"] == 1.0
    assert found["ndcg@10"] > 0.9


def test_targets_are_one_per_test_user_and_hidden(folder: Path) -> None:
    visible, users, targets = baselines._fold(folder, 0)
    assert targets["user_id"].is_unique().all()
    assert not users & set(targets["user_id"])
    shared = visible.join(targets, on=["user_id", "position"])
    assert shared.is_empty()
