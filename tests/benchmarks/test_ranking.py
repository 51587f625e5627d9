"""The benchmark `ranking`."""

import pytest

from benchmarks.ranking import run


@pytest.mark.parametrize("model", ["", "student"])
def test_a_small_run_returns_sizes_seconds_and_memory(model: str) -> None:
    result = run(users=50, items=40, history=3, model=model, repeats=1)
    assert (result["users"], result["items"]) == (50, 40)
    assert 0 <= result["seconds_of_scoring"] <= result["seconds"]
    assert 0 < result["peak_gb"] < 6
