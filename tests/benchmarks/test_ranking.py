"""The benchmark `ranking`."""

from benchmarks.ranking import run


def test_a_small_run_returns_sizes_seconds_and_memory() -> None:
    result = run(users=50, items=40, history=3, repeats=1)
    assert (result["users"], result["items"]) == (50, 40)
    assert 0 <= result["seconds_of_scoring"] <= result["seconds"]
    assert 0 < result["peak_gb"] < 6
