"""Completion of values in a shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mllm_msr.cli import _completion
from mllm_msr.ranker.recommender import VARIANTS


def test_presets_are_completed_with_their_meaning() -> None:
    found = dict(_completion.complete_preset("m"))
    assert set(found) == {"microlens", "movielens"}
    assert found["microlens"].startswith("MicroLens-50k")


def test_lists_of_models_are_completed_without_repetition() -> None:
    assert "sasrec" in list(_completion.complete_models("sas"))
    assert list(_completion.complete_models("sasrec,item")) == ["sasrec,item_knn"]
    assert "sasrec,sasrec" not in list(_completion.complete_models("sasrec,s"))
    assert set(VARIANTS) <= set(_completion.complete_models(""))


def test_settings_are_completed_up_to_their_value() -> None:
    assert list(_completion.complete_setting("train.ra")) == ["train.rank="]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mllm-msr rec", ["recommend"]),
        ("mllm-msr compare --models sasrec,item", ["sasrec,item_knn"]),
        ("mllm-msr run --preset demo train.ra", ["train.rank="]),
        ("mllm-msr list expe", ["experiments"]),
        ("mllm-msr help serv", ["serve"]),
    ],
)
def test_a_shell_gets_the_completions(words: str, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mllm_msr.cli import app; app(prog_name='mllm-msr')"],
        env={
            "_MLLM_MSR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == expected, done.stderr
