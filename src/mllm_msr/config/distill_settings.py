"""Section `distill` of the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from mllm_msr.config.fields import Section


class DistillSettings(Section):
    """Scores of the MLLM that the baseline `student` learns from."""

    enabled: bool = Field(False, description="let the MLLM score items for training users")
    budget: PositiveInt = Field(
        10_000, description="pairs of a user and an item that the MLLM scores, per fold"
    )
    list_size: Annotated[int, Field(ge=2)] = Field(
        16,
        validate_default=True,
        description="items per user and position, those that the student is most unsure about",
    )

    @field_validator("list_size")
    @classmethod
    def _require_a_list(cls, list_size: int, info: ValidationInfo) -> int:
        if list_size > (budget := info.data.get("budget", list_size)):
            raise PydanticCustomError(
                "no_list",
                "distill.budget={budget} is less than one list. Lower distill.list_size, or raise "
                "distill.budget.",
                {"budget": budget},
            )
        return list_size
