"""Spaces: what belongs to them, and that every baseline's own holds its defaults."""

from __future__ import annotations

import inspect

import pytest

from mllm_msr.interfaces import Tunable
from mllm_msr.registry import find, names
from mllm_msr.search_space import Choice, Range


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        (Range(1, 8), [1, 8, 3], [0, 9, 2.5, "2", None]),
        (Range(0.0, 0.5), [0.0, 0.5, 0.1], [-0.1, 0.6, "0.1"]),
        (Choice(("ce", "bce")), ["ce", "bce"], ["top1", None]),
    ],
)
def test_what_belongs_to_a_space(values, inside, outside):
    assert all(value in values for value in inside)
    assert not any(value in values for value in outside)


@pytest.mark.parametrize("name", names("baselines"))
def test_defaults_belong_to_the_space(name):
    kind = find("baselines", name)
    if not issubclass(kind, Tunable):
        return
    parameters = inspect.signature(kind).parameters
    for key, values in kind.space().items():
        assert parameters[key].default in values, f"{name}.{key}"


def test_the_trained_baselines_can_be_searched():
    searched = {name for name in names("baselines") if issubclass(find("baselines", name), Tunable)}
    assert {"sasrec", "gru4rec", "mmgcn", "mmsr", "trans2d", "item_knn"} <= searched
