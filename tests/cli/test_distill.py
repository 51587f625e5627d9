"""Tests of the command `distill`; the stage itself has tests in `tests/pipeline`."""

from __future__ import annotations

from typer.testing import CliRunner

from mllm_msr.cli import app
from mllm_msr.cli._stage_text import describe_entry, next_command


def test_the_help_says_what_the_student_learns_from() -> None:
    result = CliRunner().invoke(app, ["distill", "--help"])
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "on these scores and on the interactions" in words
    assert "Sets distill.enabled=true" in words


def test_the_stage_is_described_and_optional() -> None:
    counts = {"pairs": 9_984, "lists": 624, "users": 288, "misses": 9_000, "hits": 984,
              "prompt_tokens": 10, "output_tokens": 0, "seconds": 40}  # fmt: skip
    assert describe_entry("distill/0", counts) == (
        "Scored 9,984 pairs of 288 training users of fold 0 with the MLLM for the student; 9,000 "
        "model calls, 984 from the cache; 10 input and 0 output tokens (40 s)."
    )
    assert next_command("train") == "score"
    assert next_command("distill") == "compare --models student"
