"""Sentences about what a stage did."""

from __future__ import annotations

from typing import Any

import pytest

from mllm_msr.cli._stage_text import describe_entry, next_command
from mllm_msr.pipeline.pipeline import STAGES


@pytest.mark.parametrize(
    ("name", "counts", "expected"),
    [
        (
            "prepare",
            {"interactions": 4611, "users": 400, "items": 388},
            "Prepared 4,611 interactions of 400 users with 388 items (1.5 s).",
        ),
        (
            "summarize",
            {"items": 388, "image_ok": 380, "source_coverage": 0.9691, "misses": 1174, "hits": 2,
             "prompt_tokens": 6382, "output_tokens": 1927},
            ("Summarized 388 items; 8 without a usable image; source coverage 96.9%; 1,174 model "
            "calls, 2 from the cache; 6,382 input and 1,927 output tokens (1.5 s)."),
        ),
        (
            "infer",
            {"users": 400, "blocks": 1518, "flagged": 3, "source_coverage": 0.9, "repetition": 0.2},
            ("Inferred 1,518 preferences of 400 users; 3 with a warning; source coverage 90.0%; "
            "repetition 20.0% (1.5 s)."),
        ),
        (
            "train/0",
            {"examples": 2212, "best_auc": 0.917, "best_step": 70, "steps": 80},
            ("Fine-tuned fold 0 with 2,212 examples in 80 steps, best validation AUC 0.917 at step "
            "70 (1.5 s)."),
        ),
        (
            "score/popularity",
            {"scores": 3360, "full_users": 80, "failed": 1},
            ("Scored 3,360 candidates with popularity, and the full catalog for 80 users; 1 "
            "without a score (1.5 s)."),
        ),
        ("evaluate", {"models": 3}, "Evaluated 3 models (1.5 s)."),
        (
            "report",
            {"outputs": ["report.html", "report.md"]},
            "Wrote report.html and report.md (1.5 s).",
        ),
        ("new/part", {}, "Finished new/part (1.5 s)."),
    ],
)  # fmt: skip
def test_an_entry_is_one_sentence(name: str, counts: dict[str, Any], expected: str) -> None:
    assert describe_entry(name, {**counts, "seconds": 1.5}) == expected


def test_the_next_command_is_that_of_the_next_stage() -> None:
    # Nothing needs these two stages.
    stages = [stage for stage in STAGES if stage not in {"align", "distill"}]
    assert [next_command(stage) for stage in stages] == [*stages[1:], "serve"]
    assert next_command("align") == "summarize"


def test_a_stage_that_is_switched_off_says_so(invoke, finished) -> None:
    lines = invoke("train", "--run", finished).stdout.splitlines()
    assert lines == [
        "The stage train is switched off in the settings of this run.",
        f"Next    mllm-msr score --run {finished}",
    ]
