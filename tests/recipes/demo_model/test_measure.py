"""Evaluation of an exported model, and slot values in texts."""

import pytest

from mllm_msr.demo_model.world import SLOTS
from recipes.demo_model.measure import measure, read_values


def test_read_values_finds_slot_values_in_any_text():
    text = "Velora, an epic cooking video, showing a Lantern in amber colours."
    assert read_values(text) == ("cooking", "epic", "lantern", "amber", None)
    assert read_values("") == (None,) * len(SLOTS)


def test_an_exported_model_is_measured_on_the_whole_pipeline(tiny_run, tmp_path):
    tiny_run(tmp_path / "run").export(tmp_path / "weights")
    titles = ["Quiet harbors (1999)", "A walk"]
    found = measure(
        tmp_path / "weights", seed=500_003, n_items=40, n_users=2, n_questions=40, titles=titles
    )
    assert set(found["image_description"]) == {"object", "palette", "pattern"}
    assert set(found["preference"]) == {slot.name for slot in SLOTS}
    assert found["names_in_fusion"] == 0.0  # the model is untrained
    assert found["ceilings"]["true_taste"] == pytest.approx(1, abs=0.2)
    assert len(found["samples"]["preferences"]) == 2
    assert {kind.split(":")[0] for kind in found["questions"]} == {"presence"}
    assert all(
        0 <= kind["accuracy"] <= kind["majority"] + 0.2 for kind in found["questions"].values()
    )
