"""What each experiment measures, and what it says of the paper."""

from __future__ import annotations

import pytest

from mllm_msr import experiments
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import UnknownNameError
from mllm_msr.registry import names


def rows(name: str, *more: str):
    return experiments.find(name).rows(load_settings("demo", more, environment={}))


def test_the_papers_tables_and_figures_are_listed() -> None:
    assert experiments.names() == ["figure4", "figure5", "figure6", "table1", "table3"]
    with pytest.raises(UnknownNameError, match="did you mean 'figure4'"):
        experiments.find("figure44")


@pytest.mark.parametrize("name", experiments.names())
def test_rows_have_names_of_their_own_and_paper_values_their_metrics(name: str) -> None:
    experiment = experiments.find(name)
    assert experiment.name == name
    found = [row.name for row in rows(name)]
    assert len(found) == len(set(found))
    for systems in experiment.reference.values():
        for values in systems.values():
            assert set(values) <= {"auc", "hr@5", "mrr@5"}
            assert all(10 < value < 100 for value in values.values())


@pytest.mark.parametrize(("name", "own"), [("figure5", "3 items"), ("figure6", "80 words")])
def test_sweeps_compare_with_the_runs_own_setting(name: str, own: str) -> None:
    first, *others = rows(name)
    assert (first.label, first.variant) == (own, None)
    assert all(row.variant is not None for row in others)


def test_a_sweep_follows_the_runs_setting() -> None:
    first, *others = rows("figure5", "infer.block_size=5")
    assert first.x == 5
    assert sorted(row.x for row in others) == [1, 2, 3, 4, 6]


def test_without_tuning_nothing_is_tuned() -> None:
    assert {row.name for row in rows("figure4")} - {
        row.name for row in rows("figure4", "train.enabled=false")
    } == {"zero_shot"}
    without = {row.name for row in rows("table3", "train.enabled=false")}
    assert without == {"zero_shot", *names("baselines")} - {"tallrec"}


def test_table_3_has_every_system_of_the_registry() -> None:
    assert {row.name for row in rows("table3")} == {"mllm_msr", "zero_shot", *names("baselines")}


def test_table_1_reads_either_summaries_or_images() -> None:
    summaries, features = rows("table1")
    assert "baselines.content=image_summary" in summaries.variant.overrides
    assert "baselines.content=image" in features.variant.overrides
