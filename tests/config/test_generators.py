"""Candidate generators of the settings."""

from __future__ import annotations

from mllm_msr.config.checks import check_generators
from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.settings import Settings

DEFAULT = {"preference": None, "collaborative": "item_knn", "recent": None}


def settings(**sections: dict[str, object]) -> Settings:
    return Settings.model_validate(sections)


def test_generators_that_are_baselines_are_found() -> None:
    assert candidate_generators(Settings()) == DEFAULT
    generators = ["recent", "collaborative", "sasrec"]
    named = settings(retrieve={"generators": generators, "collaborative": "gru4rec"})
    expected = {"recent": None, "collaborative": "gru4rec", "sasrec": "sasrec"}
    assert candidate_generators(named) == expected


def test_a_run_also_uses_the_baselines_that_it_has_fitted() -> None:
    distilled = settings(distill={"enabled": True}, recommend={"collaborative": "sasrec"})
    found = candidate_generators(distilled)
    assert list(found) == ["student", "sasrec", *DEFAULT]
    assert found == {"student": "student", "sasrec": "sasrec", **DEFAULT}
    named = settings(
        distill={"enabled": True},
        recommend={"collaborative": "sasrec"},
        retrieve={"generators": ["recent"]},
    )
    assert candidate_generators(named) == {"recent": None}


def test_the_same_baseline_is_used_once() -> None:
    both = settings(recommend={"collaborative": "sasrec"}, retrieve={"collaborative": "sasrec"})
    assert candidate_generators(both) == {**DEFAULT, "collaborative": "sasrec"}
    assert check_generators(both) == []
    both = settings(distill={"enabled": True}, retrieve={"collaborative": "student"})
    assert candidate_generators(both) == {**DEFAULT, "collaborative": "student"}
    assert check_generators(both) == []
