"""`prepare`: read, filter and split the data, and sample the candidates."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command
from mllm_msr.cli._stage_text import data_text

add_stage_command(
    "prepare",
    "Read, filter and split the data",
    help="Read, filter and split the data, sample the candidates, and print what was understood",
    sections=("", "data", "images"),
    describe=lambda pipeline, _: data_text(pipeline),
)
