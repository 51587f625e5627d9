"""Negative sampling: properties of every table, independence, distributions and targets."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllm_msr.data.negative_sampling import draw_candidates
from mllm_msr.data.splits import split_users, visible_interactions
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.tables import CANDIDATES, INTERACTIONS

GROUP = ["fold", "split", "negatives", "user_id", "position"]


def interactions_of(histories: dict[str, list[str]]) -> pl.DataFrame:
    rows = [
        (user, item, position, position)
        for user, items in histories.items()
        for position, item in enumerate(items)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def random_interactions(
    n_users: int, n_items: int = 40, length: int = 6, seed: int = 0
) -> pl.DataFrame:
    """Return users with distinct random items; items with low numbers are more popular."""
    histories = {}
    for number in range(n_users):
        random = np.random.default_rng([seed, number])
        ranked = np.argsort(random.random(n_items) * np.arange(1, n_items + 1))
        histories[f"u{number:04}"] = [f"i{item:03}" for item in ranked[:length]]
    return interactions_of(histories)


def fixed_splits(**users: list[str]) -> pl.DataFrame:
    rows = [(0, user, split) for split, ids in users.items() for user in ids]
    schema = {"fold": pl.Int32, "user_id": pl.String, "split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def items_by_user(candidates: pl.DataFrame, negatives: str) -> dict[str, list[str]]:
    rows = candidates.filter((pl.col("negatives") == negatives) & (pl.col("split") == "test"))
    return dict(rows.group_by("user_id", maintain_order=True).agg("item_id").rows())


# Properties of every candidate table


@settings(max_examples=25)
@given(
    n_users=st.integers(5, 30),
    n_items=st.integers(12, 40),
    n_negatives=st.integers(1, 4),
    targets=st.sampled_from(["last", "blocks", "all"]),
    seed=st.integers(0, 3),
)
def test_each_target_occurs_once_among_distinct_new_items(
    n_users: int, n_items: int, n_negatives: int, targets: str, seed: int
) -> None:
    interactions = random_interactions(n_users, n_items, seed=seed)
    splits = split_users(interactions, seed=seed, validation_fraction=0.3)
    table = draw_candidates(
        interactions,
        splits,
        n_negatives=n_negatives,
        train_targets=targets,  # type: ignore[arg-type]
        seed=seed,
    )
    assert dict(table.schema) == dict(CANDIDATES)
    groups = table.group_by(GROUP).agg(
        rows=pl.len(), positives=pl.col("label").sum(), distinct=pl.col("item_id").n_unique()
    )
    width = pl.when(pl.col("split") == "train").then(2).otherwise(1 + n_negatives)
    assert groups.filter((pl.col("rows") != width) | (pl.col("distinct") != width)).is_empty()
    assert groups.filter(pl.col("positives") != 1).is_empty()
    joined = table.join(interactions, on=["user_id", "item_id"], how="left")
    assert joined.filter((pl.col("label") == 0) & pl.col("timestamp").is_not_null()).is_empty()
    right = pl.col("position") == pl.col("position_right")
    assert joined.filter((pl.col("label") == 1) & ~right.fill_null(value=False)).is_empty()


def test_rows_follow_the_splits() -> None:
    interactions = random_interactions(40)
    splits = split_users(interactions)
    table = draw_candidates(interactions, splits, n_negatives=3)
    unexpected = (
        table.select("fold", "user_id", "split")
        .unique()
        .join(splits, on=["fold", "user_id", "split"], how="anti")
    )
    assert unexpected.is_empty()
    assert table.select("fold", "user_id").n_unique() == 5 * 40
    held_out = table.filter(pl.col("split") != "train")
    assert (held_out["position"] == 5).all()
    assert set(table.filter(pl.col("split") == "train")["negatives"]) == {"uniform"}
    assert set(held_out["negatives"]) == {"uniform", "popularity"}


def test_one_fold_equals_its_part_of_all_folds() -> None:
    interactions = random_interactions(20)
    splits = split_users(interactions)
    every = draw_candidates(interactions, splits, n_negatives=3)
    one = draw_candidates(interactions, splits, n_negatives=3, folds=[2])
    assert one.equals(every.filter(pl.col("fold") == 2))


# Independence


def test_new_users_do_not_change_uniform_negatives() -> None:
    """With an unchanged catalog, adding users must not change the lists of others."""
    ids = [f"i{number:03}" for number in range(40)]
    whole_catalog = interactions_of({"x": ids[:20], "y": ids[20:]})
    interactions = pl.concat([random_interactions(60), whole_catalog])
    few = interactions.filter((pl.col("user_id") < "u0040") | (pl.col("user_id") > "w"))
    everyone = fixed_splits(test=interactions["user_id"].unique().to_list())
    less = items_by_user(draw_candidates(few, everyone), "uniform")
    more = items_by_user(draw_candidates(interactions, everyone), "uniform")
    assert len(less) == 42
    assert {user: more[user] for user in less} == less


def test_rows_in_any_order_give_the_same_candidates() -> None:
    interactions = random_interactions(30)
    splits = split_users(interactions)
    shuffled = interactions.sample(fraction=1, shuffle=True, seed=5)
    assert draw_candidates(shuffled, splits).equals(draw_candidates(interactions, splits))


def test_candidates_depend_on_the_seed() -> None:
    interactions = random_interactions(30)
    splits = split_users(interactions)
    first = draw_candidates(interactions, splits, seed=1)
    assert not first.equals(draw_candidates(interactions, splits, seed=2))


def test_results_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = random_interactions(30)
    splits = split_users(interactions)
    whole = draw_candidates(interactions, splits)
    monkeypatch.setattr("mllm_msr.data.negative_sampling._CHUNK", 7)
    assert draw_candidates(interactions, splits).equals(whole)


# Distributions


def test_the_positive_has_a_uniform_position() -> None:
    """Check that a constant score with stable sorting finds the positive only by chance."""
    interactions = random_interactions(1500)
    everyone = fixed_splits(test=interactions["user_id"].unique().to_list())
    table = draw_candidates(interactions, everyone, n_negatives=4)
    indices = table.with_columns(index=pl.int_range(pl.len()).over(GROUP)).filter(
        pl.col("label") == 1
    )["index"]
    shares = np.bincount(indices.to_numpy()) / len(indices)
    assert shares == pytest.approx([0.2] * 5, abs=0.03)


def test_uniform_negatives_are_uniform() -> None:
    histories = {f"u{n}": [f"i{n % 10}", f"i{(n + 1) % 10}"] for n in range(4000)}
    everyone = fixed_splits(test=list(histories))
    table = draw_candidates(
        interactions_of(histories), everyone, n_negatives=3, negatives=["uniform"]
    )
    shares = Counter(table.filter(pl.col("label") == 0)["item_id"])
    assert list(shares.values()) == pytest.approx([1200] * 10, rel=0.1)


def test_popularity_negatives_follow_the_visible_counts() -> None:
    """Items a, b, c are visible 1000, 500 and 250 times; the hidden target z never."""
    fillers = {f"f{n}": ["a", *(["b"] * (n < 500)), *(["c"] * (n < 250))] for n in range(1000)}
    tested = {f"t{n}": ["y", "z"] for n in range(3000)}
    splits = fixed_splits(train=list(fillers), test=list(tested))
    drawn = draw_candidates(
        interactions_of({**fillers, **tested}),
        splits,
        n_negatives=1,
        negatives=["popularity"],
    ).filter((pl.col("split") == "test") & (pl.col("label") == 0))
    counts = Counter(drawn["item_id"])
    assert set(counts) == {"a", "b", "c"}
    shares = [counts[item] / 3000 for item in "abc"]
    assert shares == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.03)


def test_hidden_targets_do_not_count_as_popularity() -> None:
    """Only test users interacted with "hit", and only as their target."""
    fillers = {f"f{n}": ["a", "b"] for n in range(10)}
    tested = {f"t{n}": ["a", "hit"] for n in range(200)}
    other = {"v": ["a", "b"]}
    splits = fixed_splits(train=list(fillers), test=[*tested, "v"])
    histories = {**fillers, **tested, **other}
    visible, _ = visible_interactions(interactions_of(histories), splits, 0)
    assert "hit" not in set(visible["item_id"])
    drawn = items_by_user(
        draw_candidates(
            interactions_of(histories),
            splits,
            n_negatives=1,
            train_negatives=1,
            negatives=["popularity"],
        ),
        "popularity",
    )
    assert all(set(drawn[user]) == {"hit", "b"} for user in tested)


# Long histories: exact sampling


def test_a_user_with_nearly_all_items_gets_the_remaining_ones() -> None:
    ids = [f"i{n:03}" for n in range(300)]
    interactions = interactions_of({"heavy": ids[:298], "other": ids[298:]})
    splits = fixed_splits(test=["heavy", "other"])
    drawn = draw_candidates(interactions, splits, n_negatives=2)
    for kind in ("uniform", "popularity"):
        assert set(items_by_user(drawn, kind)["heavy"]) == {"i297", "i298", "i299"}


def test_exact_sampling_has_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_msr.data.negative_sampling._MAX_DRAWS_PER_NEGATIVE", 0)
    fillers = {f"f{n}": ["a", *(["b"] * (n < 500)), *(["c"] * (n < 250))] for n in range(1000)}
    tested = {f"t{n}": ["y", "z"] for n in range(2000)}
    splits = fixed_splits(train=list(fillers), test=list(tested))
    # Training users need an item that is new to them; y and z serve that purpose.
    drawn = draw_candidates(interactions_of({**fillers, **tested}), splits, n_negatives=2)
    pairs = drawn.filter((pl.col("split") == "test") & (pl.col("label") == 0)).group_by(
        "user_id", "negatives"
    )
    sets = Counter((kind, "".join(sorted(items))) for _, kind, items in pairs.agg("item_id").rows())
    weights = {"a": 4 / 7, "b": 2 / 7, "c": 1 / 7}
    for one, two in ("ab", "ac", "bc"):
        p, q = weights[one], weights[two]
        expected = p * q / (1 - p) + q * p / (1 - q)
        assert sets["popularity", one + two] / 2000 == pytest.approx(expected, abs=0.04)
        assert sets["uniform", one + two] / 2000 == pytest.approx(1 / 3, abs=0.04)


def test_items_of_weight_zero_come_last() -> None:
    """Only "a" has a positive weight, so the second negative must be an item of weight zero."""
    interactions = interactions_of({"f": ["a"], "t1": ["x", "p"], "t2": ["x", "q"]})
    splits = fixed_splits(train=["f"], test=["t1", "t2"])
    drawn = items_by_user(draw_candidates(interactions, splits, n_negatives=2), "popularity")
    assert set(drawn["t1"]) == {"p", "a", "q"}


def test_without_visible_interactions_all_items_have_equal_weight() -> None:
    """The only interaction of each user is a hidden target."""
    interactions = interactions_of({f"u{n}": [f"i{n}"] for n in range(6)})
    splits = fixed_splits(test=[f"u{n}" for n in range(6)])
    drawn = items_by_user(draw_candidates(interactions, splits, n_negatives=5), "popularity")
    assert all(len(set(items)) == 6 for items in drawn.values())


def test_too_few_new_items_are_an_error_that_names_the_user() -> None:
    interactions = interactions_of({"u": ["a", "b"], "v": ["c", "d"]})
    splits = fixed_splits(test=["u", "v"])
    with pytest.raises(DataError, match=r"3 negatives for user 'u': only 2 of 4 items .*Lower"):
        draw_candidates(interactions, splits, n_negatives=3)


def test_the_error_names_the_largest_number_that_all_users_allow() -> None:
    interactions = interactions_of({"u": ["a", "b"], "v": ["b", "c", "d"]})
    splits = fixed_splits(test=["u", "v"])
    with pytest.raises(DataError, match=r"user 'u': only 2 of 4 items .* to at most 1, or provide"):
        draw_candidates(interactions, splits, n_negatives=3)
    draw_candidates(interactions, splits, n_negatives=1)
    everything = interactions_of({"u": ["a", "b", "c"], "v": ["a"]})
    with pytest.raises(
        DataError, match=r"only 0 of 3 items are not in their history\. Provide more"
    ):
        draw_candidates(everything, splits, n_negatives=1)


# Targets of training users


@pytest.mark.parametrize(
    ("targets", "positions"),
    [("last", [7]), ("blocks", [3, 6, 7]), ("all", [1, 2, 3, 4, 5, 6, 7])],
)
def test_training_targets(targets: str, positions: list[int]) -> None:
    long = [f"i{n}" for n in range(8)]
    interactions = interactions_of({"long": long, "short": ["x", "y"], "tested": [*long[:7], "z"]})
    splits = fixed_splits(train=["long", "short"], test=["tested"])
    drawn = draw_candidates(
        interactions,
        splits,
        n_negatives=1,
        train_targets=targets,  # type: ignore[arg-type]
    )
    positives = drawn.filter(pl.col("label") == 1).sort("position")
    found = positives.group_by("user_id", "split").agg("position")
    train = dict(found.filter(pl.col("split") == "train").select("user_id", "position").rows())
    assert train == {"long": positions, "short": [1]}
    assert positives.filter(pl.col("user_id") == "tested")["position"].unique().to_list() == [7]


def test_user_samples_are_nested() -> None:
    interactions = random_interactions(100)
    splits = split_users(interactions)

    def users(split: str, **limits: int) -> set[str]:
        drawn = draw_candidates(interactions, splits, folds=[0], n_negatives=2, **limits)
        return set(drawn.filter(pl.col("split") == split)["user_id"])

    assert len(users("test", max_test_users=5)) == 5
    assert users("test", max_test_users=5) < users("test", max_test_users=9)
    assert len(users("validation", max_validation_users=3)) == 3
    assert len(users("train", max_test_users=5, max_validation_users=3)) == 72


def test_all_invalid_settings_are_reported_together() -> None:
    interactions = random_interactions(10)
    with pytest.raises(SettingsError) as error:
        draw_candidates(
            interactions,
            split_users(interactions),
            n_negatives=0,
            negatives=["hard"],  # type: ignore[list-item]
            train_targets="first",  # type: ignore[arg-type]
        )
    n_negatives, negatives, train_targets = error.value.problems
    assert n_negatives == "data.n_negatives is 0. It must be at least 1."
    assert negatives.startswith("data.negatives is ['hard'].")
    assert train_targets.startswith("data.train_targets is 'first'.")
