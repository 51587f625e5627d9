"""Section `align` of the settings."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mllm_msr.config.fields import Section


class AlignSettings(Section):
    """Training of the projector on the images and texts of the run's own items.

    The only declaration of these settings: the trainer takes this object.
    """

    enabled: bool = Field(
        False, description="train the projector of model.* before the items are summarized"
    )
    learning_rate: PositiveFloat = Field(1e-3, description="peak learning rate of AdamW")
    batch_size: PositiveInt = Field(8, description="examples per optimizer step")
    word_epochs: NonNegativeInt = Field(
        20,
        description="passes over the images that bring image tokens near the words of the answers, "
        "before the language model is used",
    )
    epochs: PositiveFloat = Field(
        2.0, description="passes over the examples; fractions are allowed"
    )
    max_steps: PositiveInt | None = Field(None, description="upper bound on optimizer steps")
    max_answer_tokens: PositiveInt = Field(
        48, description="length at which title and text of an item are cut, in tokens"
    )
    checkpoint_every: PositiveInt = Field(
        100, description="optimizer steps between saved training states"
    )
    seed: NonNegativeInt = Field(0, description="seed of the order of the examples")

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that change the weights and differ from their defaults."""
        unrelated = {"enabled", "checkpoint_every"}
        return self.model_dump(mode="json", exclude=unrelated, exclude_defaults=True)
