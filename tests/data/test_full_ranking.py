"""Full ranking: every new item is a candidate, in blocks of whole users."""

import polars as pl
import pytest

from mllm_msr.data.full_ranking import full_candidates, sample_targets
from mllm_msr.errors import DataError
from mllm_msr.tables import CANDIDATES, INTERACTIONS

CATALOG = pl.Series(["a", "b", "c", "d"])


def interactions_of(histories: dict[str, str]) -> pl.DataFrame:
    rows = [
        (user, item, position, position)
        for user, items in histories.items()
        for position, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def target(user: str, position: int, item: str, *, fold: int = 0, label: int = 1) -> pl.DataFrame:
    row = (fold, "test", "uniform", user, position, item, label)
    return pl.DataFrame([row], schema=dict(CANDIDATES), orient="row")


def items_by_user(table: pl.DataFrame) -> dict[str, list[str]]:
    return dict(table.sort("user_id", "item_id").group_by("user_id").agg("item_id").rows())


def test_every_new_item_is_a_candidate() -> None:
    interactions = interactions_of({"u": "ab", "v": "bcd"})
    targets = pl.concat([target("u", 1, "b"), target("v", 2, "d")])
    (table,) = full_candidates(targets, interactions, CATALOG)
    assert dict(table.schema) == dict(CANDIDATES)
    assert items_by_user(table) == {"u": ["b", "c", "d"], "v": ["a", "d"]}
    assert items_by_user(table.filter(pl.col("label") == 1)) == {"u": ["b"], "v": ["d"]}
    assert set(table["negatives"]) == {"full"}


def test_interactions_after_the_target_are_candidates() -> None:
    (table,) = full_candidates(target("u", 1, "b"), interactions_of({"u": "abc"}), CATALOG)
    assert items_by_user(table) == {"u": ["b", "c", "d"]}


def test_a_repeated_target_remains_a_candidate() -> None:
    (table,) = full_candidates(target("u", 2, "a"), interactions_of({"u": "aba"}), CATALOG)
    assert items_by_user(table) == {"u": ["a", "c", "d"]}


@pytest.mark.parametrize(("max_rows", "n_blocks"), [(1, 3), (8, 2), (12, 1)])
def test_blocks_hold_whole_users(max_rows: int, n_blocks: int) -> None:
    interactions = interactions_of({"u": "ab", "v": "ab", "w": "ab"})
    targets = pl.concat([target(user, 1, "b") for user in "uvw"])
    blocks = list(full_candidates(targets, interactions, CATALOG, max_rows=max_rows))
    assert len(blocks) == n_blocks
    users = [user for block in blocks for user in block["user_id"].unique()]
    assert sorted(users) == ["u", "v", "w"]


def test_without_targets_there_are_no_blocks() -> None:
    none = target("u", 0, "a").clear()
    assert list(full_candidates(none, interactions_of({"u": "a"}), CATALOG)) == []


def test_targets_need_the_candidate_columns() -> None:
    with pytest.raises(DataError, match="targets"):
        next(full_candidates(pl.DataFrame({"user_id": ["u"]}), interactions_of({}), CATALOG))


def test_target_samples_are_nested_and_reproducible() -> None:
    candidates = pl.concat(
        [target(f"u{n}", 1, "a", fold=n % 2) for n in range(20)]
        + [target("u0", 1, "b", label=0), target("u0", 1, "a")]
    )
    small, large = sample_targets(candidates, 3), sample_targets(candidates, 5)
    assert small.group_by("fold").len().sort("fold")["len"].to_list() == [3, 3]
    assert set(small["user_id"]) < set(large["user_id"])
    assert small.equals(sample_targets(candidates.reverse(), 3))
    assert not small.equals(sample_targets(candidates, 3, seed=1))
    assert sample_targets(candidates, 100).height == 20
