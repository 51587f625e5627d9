"""Held-out targets: what is hidden, from whom, and which negatives the targets get."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.baselines._ensemble.held_out import hold_out, validation_candidates
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS

N_ITEMS, N_STEPS = 40, 10
KEYS = ["user_id", "position"]


def make_data(*, n_train=8, n_validation=2, n_test=4, n_steps=N_STEPS):
    """Return data of users t0.. (training), v0.. and e0.. (last item hidden)."""
    users = [
        *(f"t{at}" for at in range(n_train)),
        *(f"v{at}" for at in range(n_validation)),
        *(f"e{at}" for at in range(n_test)),
    ]
    rows = [
        (user, f"i{(7 * at + step) % N_ITEMS}", step, step)
        for at, user in enumerate(users)
        for step in range(n_steps - (user[0] != "t"))
    ]
    candidates = [
        (0, split, "uniform", user, n_steps - 1, f"i{item}", int(item == 39))
        for user in users
        for split in [{"t": "train", "v": "validation"}.get(user[0])]
        if split is not None
        for item in (39, 38)
    ]
    return TrainingData(
        interactions=pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row"),
        items=pl.DataFrame(
            [(f"i{at}", "", "", None) for at in range(N_ITEMS)], schema=dict(ITEMS), orient="row"
        ),
        candidates=pl.DataFrame(candidates, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(user for user in users if user[0] == "t"),
    )


def targets_of(held):
    return held.candidates.filter(label=1).unique([*KEYS, "item_id"]).sort(KEYS)


@pytest.mark.parametrize("max_targets", [3, 100])
def test_the_latest_interactions_of_test_users_and_half_of_the_training_users_are_hidden(
    max_targets,
):
    data = make_data()
    held = hold_out(data, max_targets=max_targets, n_negatives=5)
    targets = targets_of(held)
    by_kind = pl.col("user_id").str.head(1)
    users = targets.select(user="user_id", kind=by_kind).unique()["kind"].value_counts()
    if max_targets == 3:
        assert targets.height == 3
    else:
        assert dict(users.iter_rows()) == {"e": 4, "t": 4}
        # At most a fifth of ten interactions: two of training users; one of nine of test users.
        assert dict(targets.group_by(by_kind).len().iter_rows()) == {"e": 4, "t": 8}
    # All positives are true interactions at their positions, and none of them is visible.
    assert targets.join(data.interactions, on=[*KEYS, "item_id"]).height == targets.height
    assert targets.join(held.data.interactions, on=KEYS).is_empty()
    hidden = data.interactions.join(held.data.interactions, on=KEYS, how="anti")
    assert hidden.select(KEYS).sort(KEYS).equals(targets.select(KEYS))
    assert held.data.train_users == data.train_users - set(targets["user_id"])


def test_training_candidates_of_hidden_targets_are_hidden_as_well():
    data = make_data()
    held = hold_out(data, max_targets=100, n_negatives=5)
    users = set(targets_of(held)["user_id"])
    left = held.data.candidates.filter(split="train")
    assert set(left["user_id"]) == data.train_users - users
    assert held.data.candidates.filter(split="validation").equals(
        data.candidates.filter(split="validation")
    )


def test_negatives_are_new_to_the_user_then_and_later():
    data = make_data()
    held = hold_out(data, max_targets=100, n_negatives=20)
    negatives = held.candidates.filter(label=0)
    assert negatives.join(data.interactions, on=["user_id", "item_id"]).is_empty()
    lists = negatives.group_by(*KEYS, "negatives").len()
    assert lists["negatives"].unique().to_list() == ["uniform"]  # as for validation users
    assert lists["len"].max() == 20
    assert lists["len"].min() >= 18  # items that follow the target are left out
    assert negatives.unique([*KEYS, "item_id"]).height == negatives.height


class Blocks:
    """Fake of a model that reads a history only after every third interaction."""

    def complete_histories(self, targets):
        return targets.filter(pl.col("position") % 3 == 0)


def test_readers_are_measured_at_targets_outside_the_training_fold_that_they_can_read():
    data = make_data()
    held = hold_out(data, [Blocks()], max_targets=100, n_negatives=5, n_read_negatives=2)
    read = held.read.filter(label=1)
    assert read.select(KEYS).sort(KEYS).rows() == [(f"e{at}", 6) for at in range(4)]
    assert held.read.filter(label=0).group_by(KEYS).len()["len"].to_list() == [2] * 4
    assert held.read.join(held.candidates, on=held.read.columns, how="anti").is_empty()
    hidden = held.data.interactions.filter(pl.col("user_id").str.starts_with("e"))
    assert hidden["position"].max() == 5
    # The other members are measured at the last interactions of training users as well.
    inside = targets_of(held).filter(pl.col("user_id").str.starts_with("t"))
    assert inside.height == 8
    assert inside["position"].min() == N_STEPS - 2


def test_readers_may_have_fewer_targets():
    few = hold_out(make_data(), [Blocks()], max_read=3)
    assert few.read["user_id"].n_unique() == 3
    assert hold_out(make_data(), max_read=3).read.is_empty()
    assert hold_out(make_data(), [Blocks()], max_read=0) is None
    assert hold_out(make_data(n_test=0), [Blocks()]) is None


def test_long_histories_have_several_targets():
    held = hold_out(make_data(n_steps=31), max_targets=100, n_negatives=3)
    targets = targets_of(held).filter(pl.col("user_id") == "e0")
    assert targets["position"].to_list() == [25, 26, 27, 28, 29]
    few = hold_out(make_data(n_steps=31), max_targets=8, n_negatives=3)
    assert targets_of(few)["user_id"].n_unique() == 8  # users come first


def test_the_same_seed_gives_the_same_targets():
    first, same, other = (
        hold_out(make_data(), max_targets=5, n_negatives=5, seed=seed) for seed in (0, 0, 1)
    )
    assert first.candidates.equals(same.candidates)
    assert not first.candidates.equals(other.candidates)


@pytest.mark.parametrize(
    ("sizes", "max_targets"),
    [
        ({}, 0),
        ({"n_steps": 2}, 10),
        ({"n_train": 0, "n_test": 0}, 10),
        ({"n_steps": N_ITEMS}, 10),
    ],
    ids=["none wanted", "short histories", "validation users only", "no item is new"],
)
def test_there_may_be_no_target(sizes, max_targets):
    assert hold_out(make_data(**sizes), max_targets=max_targets, n_negatives=5) is None


def test_validation_targets_that_are_visible_do_not_count():
    data = make_data()
    assert validation_candidates(data).height == 4
    row = ("v0", "i39", N_STEPS - 1, N_STEPS - 1)
    shown = pl.DataFrame([row], schema=dict(INTERACTIONS), orient="row")
    visible = TrainingData(
        pl.concat([data.interactions, shown]), data.items, data.candidates, data.train_users
    )
    assert set(validation_candidates(visible)["user_id"]) == {"v1"}
