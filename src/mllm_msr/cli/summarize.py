"""`summarize`: summarize every item from its text and its image."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "summarize",
    "Summarize every item from its text and image",
    sections=("model", "executor", "summarize"),
)
