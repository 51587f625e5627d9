"""`recommend`: recommends items to a user of a run or for a history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.cli._output import emit
from mllm_msr.cli.recommend import _format_list
from mllm_msr.errors import DataError, UsageError
from mllm_msr.recommend.lists import Recommendation, RecommendationList


def test_a_user_gets_k_items(invoke, finished: Path) -> None:
    done = invoke("recommend", "--user", "user0", "-k", 3, "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    items = json.loads(done.stdout)["items"]
    assert [item["rank"] for item in items] == [1, 2, 3]


def test_the_text_contains_preference_ranks_and_titles(invoke, finished: Path) -> None:
    done = invoke("recommend", "--history", "item1,item2", "-k", 2, "--run", finished)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "The user appears to have a preference for things."
    assert lines[2].split() == ["match", "item", "title", "matches"]
    assert [line.split()[0] for line in lines[3:5]] == ["1", "2"]
    assert "Thing" in lines[4]
    assert "not the chance that the item comes next" in " ".join(lines[-2:])


def test_a_run_without_preferences_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    item = Recommendation("a", 1, 0.5, generators=(), matches=(), title="A title")
    for preference, first in (("Likes things.", "Likes things."), ("", "match")):
        found = RecommendationList((item,), preference, fallback_reason=None, model_calls=1)
        emit({}, as_json=False, plain=_format_list(found))
        assert capsys.readouterr().out.strip().startswith(first)


@pytest.mark.parametrize(("order", "is_fused"), [("fusion", True), ("model", False)])
def test_the_generators_are_named_if_the_order_depends_on_them(
    invoke, finished: Path, order: str, is_fused: bool
) -> None:
    options = ["--user", "user3", "--run", finished, f"retrieve.order={order}"]
    done = invoke("recommend", *options)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "not the chance that the item comes next." in words
    assert ("order also counts the candidate generators" in words) == is_fused


def test_matched_titles_are_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    titles = ("Boats, Lots", "Ugly")
    item = Recommendation("a", 1, 0.5, generators=(), matches=titles, title="A title")
    found = RecommendationList((item,), "", fallback_reason=None, model_calls=1)
    emit({}, as_json=False, plain=_format_list(found))
    assert "“Boats, Lots”, “Ugly”" in capsys.readouterr().out


def test_items_of_a_history_may_be_separated_by_spaces(invoke, finished: Path) -> None:
    options = ["-k", 30, "--run", finished, "--json"]
    spaced = invoke("recommend", "--history", "item1, item2 ,", *options)
    assert spaced.exit_code == 0, spaced.output
    assert spaced.stdout == invoke("recommend", "--history", "item1,item2", *options).stdout
    assert not {"item1", "item2"} & {item["item_id"] for item in json.loads(spaced.stdout)["items"]}


def test_unknown_items_of_a_history_are_named(fail, finished: Path) -> None:
    with pytest.raises(DataError, match=r"2 items are not in the catalog: 'nope', 'item01'"):
        fail("recommend", "--history", "item1,nope,item01", "--run", finished)


def test_a_mistyped_user_is_pointed_out(invoke, finished: Path) -> None:
    done = invoke("recommend", "--user", "usr3", "-k", 2, "--run", finished)
    assert done.exit_code == 0, done.output
    assert "Unknown user 'usr3'. Did you mean 'user3'?" in done.stderr
    assert "not the chance" not in done.stdout  # no item has a score


@pytest.mark.parametrize(
    ("options", "given"),
    [([], "neither is given"), (["--user", "u", "--history", "i"], "both are given")],
)
def test_exactly_one_of_user_and_history_is_required(fail, options: list[str], given: str) -> None:
    with pytest.raises(UsageError, match=given):
        fail("recommend", *options)


@pytest.mark.parametrize("history", ["", " , ", "\n"])
def test_a_history_without_items_is_wrong_usage(fail, finished: Path, history: str) -> None:
    with pytest.raises(UsageError, match="--history contains no item"):
        fail("recommend", "--history", history, "--run", finished)


def test_ids_with_a_comma_are_in_quotes(fail, finished: Path) -> None:
    with pytest.raises(DataError, match="2 items are not in the catalog: 'a, b', 'c\"d'"):
        fail("recommend", "--history", '"a, b",item1,c"d', "--run", finished)
