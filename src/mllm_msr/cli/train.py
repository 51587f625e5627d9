"""`train`: fine-tune the MLLM ranker."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "train",
    "Fine-tune the MLLM ranker",
    sections=("model", "train"),
)
