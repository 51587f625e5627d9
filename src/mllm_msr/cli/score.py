"""`score`: score the test candidates with every model."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "score",
    "Score the test candidates with every model",
    sections=("model", "executor", "score", "baselines"),
)
