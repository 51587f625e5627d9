"""Search spaces: which values belong to them, and that each baseline's space has its defaults."""

from __future__ import annotations

import doctest
import inspect

import pytest

from mllm_msr import search_space
from mllm_msr.interfaces import Tunable
from mllm_msr.registry import find, names
from mllm_msr.search_space import Choice, Range


@pytest.mark.parametrize(
    ("space", "inside", "outside"),
    [
        (Range(1, 8), [1, 8, 3], [0, 9, 2.5, "2", None]),
        (Range(0.0, 0.5), [0.0, 0.5, 0.1], [-0.1, 0.6, "0.1"]),
        (Choice(("ce", "bce")), ["ce", "bce"], ["top1", None]),
    ],
)
def test_contains(space: Range | Choice, inside: list[object], outside: list[object]) -> None:
    assert all(value in space for value in inside)
    assert not any(value in space for value in outside)


def test_docstring_examples() -> None:
    assert doctest.testmod(search_space).failed == 0


@pytest.mark.parametrize("name", names("baselines"))
def test_the_space_of_a_baseline_contains_its_defaults(name: str) -> None:
    baseline = find("baselines", name)
    if not issubclass(baseline, Tunable):
        return
    parameters = inspect.signature(baseline).parameters
    for key, space in baseline.space().items():
        assert parameters[key].default in space, f"{name}.{key}"


def test_trained_baselines_are_tunable() -> None:
    tunable = {name for name in names("baselines") if issubclass(find("baselines", name), Tunable)}
    assert {"sasrec", "gru4rec", "mmgcn", "mmsr", "trans2d", "item_knn"} <= tunable
