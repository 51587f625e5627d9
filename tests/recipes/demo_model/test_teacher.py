"""Symbolic teacher: update rule, ties, and ceilings."""

import json

from mllm_msr.demo_model.world import make_world
from recipes.demo_model.teacher import (
    ceilings,
    main,
    recurrent_preference,
    update_preference,
)


def single_slot(*values):
    return [(value,) for value in values]


def test_the_most_frequent_value_wins():
    assert update_preference(None, single_slot("a", "b", "a")) == ("a",)


def test_ties_go_to_the_latest_value():
    assert update_preference(None, single_slot("a", "b", "c")) == ("c",)
    assert update_preference(("p",), single_slot("a", "b", "c")) == ("c",)


def test_the_previous_preference_counts_as_one_item():
    assert update_preference(("a",), single_slot("b", "a", "c")) == ("a",)
    assert update_preference(("a",), single_slot("b", "b", "a")) == ("a",)
    assert update_preference(("a",), single_slot("a", "b", "b")) == ("b",)
    assert update_preference(("a",), single_slot("b", "b", "c")) == ("b",)


def test_slots_are_independent_and_missing_values_do_not_count():
    block = [("a", None), (None, "x"), ("b", "x")]
    assert update_preference(("a", None), block) == ("a", "x")
    assert update_preference(None, [(None,)]) == (None,)


def test_there_is_one_preference_per_block():
    preferences = recurrent_preference(single_slot("a", "a", "b", "b", "b", "c", "c"), block_size=3)
    assert preferences == [("a",), ("b",), ("c",)]


def test_the_teacher_beats_direct_and_single_modality_preferences():
    found = ceilings(make_world(500_001, n_users=200))
    assert found["true_taste"] > found["teacher"] > 0.85
    assert found["teacher"] > found["direct"] + 0.03
    assert found["teacher"] > found["text_only"] + 0.03
    assert found["teacher"] > found["image_only"] + 0.01
    assert 0.45 < found["popularity"] < 0.68


def test_main_prints_json(capsys):
    main(["--seeds", "500002"])
    assert json.loads(capsys.readouterr().out)["auc"]["500002"]["teacher"] > 0.8
