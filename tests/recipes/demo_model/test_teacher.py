import json

from recipes.demo_model.teacher import (
    ceilings,
    main,
    recurrent_preference,
    update_preference,
)

from mllm_msr.demo_model.world import make_world


def one(*values):
    return [(value,) for value in values]


def test_first_block_takes_the_most_frequent_value():
    assert update_preference(None, one("a", "b", "a")) == ("a",)


def test_of_values_equally_frequent_the_newest_wins():
    assert update_preference(None, one("a", "b", "c")) == ("c",)
    assert update_preference(("p",), one("a", "b", "c")) == ("c",)


def test_the_previous_preference_counts_as_one_item():
    assert update_preference(("a",), one("b", "a", "c")) == ("a",)
    assert update_preference(("a",), one("b", "b", "a")) == ("a",)
    assert update_preference(("a",), one("a", "b", "b")) == ("b",)
    assert update_preference(("a",), one("b", "b", "c")) == ("b",)


def test_slots_are_judged_alone_and_missing_values_do_not_count():
    block = [("a", None), (None, "x"), ("b", "x")]
    assert update_preference(("a", None), block) == ("a", "x")
    assert update_preference(None, [(None,)]) == (None,)


def test_the_preference_history_has_one_preference_per_block():
    preference_history = recurrent_preference(one("a", "a", "b", "b", "b", "c", "c"), block_size=3)
    assert preference_history == [("a",), ("b",), ("c",)]


def test_ceilings_stand_in_the_order_that_the_method_needs():
    found = ceilings(make_world(500_001, n_users=200))
    assert found["true_taste"] > found["teacher"] > 0.85
    assert found["teacher"] > found["direct"] + 0.03
    assert found["teacher"] > found["text_only"] + 0.03
    assert found["teacher"] > found["image_only"] + 0.01
    assert 0.45 < found["popularity"] < 0.68


def test_script_prints_json(capsys):
    main(["--seeds", "500002"])
    assert json.loads(capsys.readouterr().out)["auc"]["500002"]["teacher"] > 0.8
