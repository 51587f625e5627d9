"""`infer`: infer the preference of every user."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "infer",
    "Infer the preference of every user",
    help="Infer the preference of every user, block by block",
    sections=("model", "executor", "infer"),
)
