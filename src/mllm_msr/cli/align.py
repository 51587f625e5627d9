"""`align`: train the projector of the model on the images and texts of the run's items."""

from __future__ import annotations

from mllm_msr.cli._stage import add_stage_command

add_stage_command(
    "align",
    "Adapt the model's projector to the item images",
    sections=("model", "align"),
    help="Train the model's projector, and nothing else, to answer an item's image with its title "
    "and text (the first stage of LLaVA). Later stages of the run use the result. Sets "
    "align.enabled=true",
    fixed=("align.enabled=true",),
)
