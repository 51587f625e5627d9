"""What the ranker reads about users, before their targets and never beyond."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import DataError
from mllm_msr.ranker.user_inputs import (
    NEUTRAL_PREFERENCE,
    NO_HISTORY,
    UserInput,
    UserInputs,
    latest_titles,
)
from mllm_msr.tables import INTERACTIONS, PREFERENCES

TITLES = {"a": "Alder", "b": "Birch", "c": " ", "d": "Dogwood"}
HISTORY = pl.DataFrame(
    [("u", item, 10 * n, n) for n, item in enumerate("abcda")],
    schema=dict(INTERACTIONS),
    orient="row",
).reverse()
PREFERENCE_HISTORY = pl.DataFrame(
    [("u", n // 2, n, f"after {n}", False, "") for n in (4, 2)],
    schema=dict(PREFERENCES),
    orient="row",
)


def inputs(**options: object) -> UserInputs:
    settings = RecommendSettings.model_validate(options)
    return UserInputs(settings, preferences=PREFERENCE_HISTORY, interactions=HISTORY, titles=TITLES)


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, ()),
        (1, ("Alder",)),
        (2, ("Birch", "Alder")),
        (3, ("Birch", "Alder")),  # the item between has no title
        (4, ("Dogwood", "Birch")),
        (5, ("Alder", "Dogwood")),
        (9, ("Alder", "Dogwood")),
    ],
)
def test_history_has_the_titles_before_the_target(position: int, expected: tuple[str, ...]) -> None:
    found = inputs(reads="history", history_items=3).before("u", position)
    assert found == UserInput(None, expected)
    assert inputs(reads="history").before("unknown", position) == UserInput(None, ())


def test_both_have_the_latest_preference_before_the_target() -> None:
    both = inputs(reads="both", history_items=2)
    assert both.before("u", 3) == UserInput("after 2", ("Birch",))
    assert both.before("u", 1) == UserInput("", ("Alder",))
    assert inputs().before("u", 4) == UserInput("after 4", None)


def test_later_items_never_enter() -> None:
    changed = HISTORY.with_columns(
        item_id=pl.when(pl.col("position") >= 2).then(pl.lit("d")).otherwise("item_id")
    )
    settings = RecommendSettings(reads="history")
    other = UserInputs(settings, preferences=None, interactions=changed, titles=TITLES)
    assert other.before("u", 2) == inputs(reads="history").before("u", 2)


def test_variables_of_templates_have_sentences_for_what_is_unknown() -> None:
    assert UserInput(" ", ()).variables() == {
        "preference": NEUTRAL_PREFERENCE,
        "history": NO_HISTORY,
    }
    assert UserInput(None, ('A "quote"', "B" * 200)).variables() == {
        "preference": None,
        "history": f"A 'quote'; {'B' * 120}",
    }
    assert UserInput(" ", ()).is_empty
    assert not UserInput("", ("A",)).is_empty
    assert not UserInput("calm", None).is_empty


def test_titles_are_those_of_the_latest_items() -> None:
    settings = RecommendSettings(history_items=3)
    assert latest_titles(["c", "a", "b", "d"], TITLES.__getitem__, settings) == ("Alder", "Birch")


def test_missing_tables_are_reported() -> None:
    with pytest.raises(DataError, match="Run the stage 'infer' first"):
        UserInputs(RecommendSettings(), preferences=None, interactions=HISTORY, titles={})
    with pytest.raises(DataError, match=r"recommend\.reads is both, which needs the interactions"):
        UserInputs(
            RecommendSettings(reads="both"),
            preferences=PREFERENCE_HISTORY,
            interactions=None,
            titles={},
        )
