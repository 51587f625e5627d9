"""Section `distill` of the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from mllm_msr.config.fields import Section


class DistillSettings(Section):
    """Scores of the MLLM that the baseline `student` learns from."""

    enabled: bool = Field(False, description="let the MLLM score items for training users")
    budget: PositiveInt = Field(
        10_000, description="pairs of a user and an item that the MLLM scores, per fold"
    )
    list_size: Annotated[int, Field(ge=2)] = Field(
        16, description="items per user and position, those that the student is most unsure about"
    )
