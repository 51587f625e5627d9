"""All experiments: unique names, reference values, and lookup by name."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from mllm_msr import experiments
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import UnknownNameError


def test_the_papers_tables_and_figures_are_listed() -> None:
    assert {"table1", "table3", "figure4", "figure5", "figure6"} <= set(experiments.names())


def test_unknown_experiments_are_rejected_with_a_suggestion() -> None:
    with pytest.raises(
        UnknownNameError, match=r"Unknown experiment 'figure44'\. Did you mean 'figure4'\?"
    ):
        experiments.find("figure44")


def test_a_file_without_an_experiment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mllm_msr.experiments.empty")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(experiments, "names", lambda: ["empty"])
    with pytest.raises(TypeError, match=r"mllm_msr\.experiments\.empty must define EXPERIMENT"):
        experiments.find("empty")


@pytest.mark.parametrize("name", experiments.names())
def test_systems_have_unique_names_and_reference_values_are_in_percent(name: str) -> None:
    experiment = experiments.find(name)
    assert experiment.name == name
    systems = experiment.systems(load_settings("demo", environment={}))
    assert len({system.name for system in systems}) == len(systems)
    for by_label in experiment.reference.values():
        for values in by_label.values():
            assert set(values) <= {"auc", "hr@5", "mrr@5"}
            assert all(10 < value < 100 for value in values.values())
