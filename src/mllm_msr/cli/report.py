"""`report`: write the report of an evaluated run."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "report",
    "Write report.html and report.md",
    help="Write report.html and report.md of an evaluated run",
    sections=("report",),
)
