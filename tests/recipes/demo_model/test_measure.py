import pytest
from recipes.demo_model.measure import measure, read_values

from mllm_msr.demo_model.world import SLOTS


def test_values_are_read_from_any_sentence():
    said = "Velora, an epic cooking video, showing a Lantern in amber colours."
    assert read_values(said) == ("cooking", "epic", "lantern", "amber", None)
    assert read_values("") == (None,) * len(SLOTS)


def test_a_model_is_measured_over_the_whole_chain(tiny_run, tmp_path):
    tiny_run(tmp_path / "run").export(tmp_path / "weights")
    titles = ["Quiet harbours (1999)", "A walk"]
    found = measure(
        tmp_path / "weights", seed=500_003, n_items=40, n_users=2, n_questions=40, titles=titles
    )
    assert set(found["image_description"]) == {"object", "palette", "pattern"}
    assert set(found["preference"]) == {slot.name for slot in SLOTS}
    assert found["names_in_fusion"] == 0.0  # an untrained model carries nothing
    assert found["ceilings"]["true_taste"] == pytest.approx(1, abs=0.2)
    assert len(found["samples"]["preferences"]) == 2
    assert {kind.split(":")[0] for kind in found["questions"]} == {"presence"}
    assert all(0 <= one["right"] <= one["majority"] + 0.2 for one in found["questions"].values())
