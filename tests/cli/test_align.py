"""Tests of the command `align`; the stage itself has tests in `tests/pipeline`."""

from __future__ import annotations

from typer.testing import CliRunner

from mllm_msr.cli import app
from mllm_msr.cli._stage_text import describe_entry, next_command


def test_the_help_says_that_later_stages_use_the_result() -> None:
    result = CliRunner().invoke(app, ["align", "--help"])
    assert result.exit_code == 0
    assert "Later stages of the run" in " ".join(result.output.split())


def test_the_stage_is_described_and_optional() -> None:
    counts = {"images": 1200, "steps": 300, "first_loss": 3.456, "last_loss": 1.2, "seconds": 60}
    assert describe_entry("align", counts) == (
        "Aligned 1,200 images with their texts in 300 steps, loss 3.46 to 1.20 (1 min 0 s)."
    )
    assert next_command("prepare") == "summarize"
    assert next_command("align") == "summarize"
