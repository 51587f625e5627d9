"""`distill`: let the MLLM score items for training users, and fit the baseline `student`."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "distill",
    "Train a fast student on the MLLM's scores",
    sections=("model", "executor", "distill", "baselines"),
    help="Let the MLLM score items for training users, where a first student is unsure, and train "
    "the baseline `student` on these scores and on the interactions. `compare --models student` "
    "evaluates it. Sets distill.enabled=true",
    fixed=("distill.enabled=true",),
)
