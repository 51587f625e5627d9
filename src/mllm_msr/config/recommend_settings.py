"""Section `recommend` of the settings; `config/settings.py` describes all others."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, PositiveInt, field_validator

from mllm_msr.config.fields import Section

# Which part of the ranker's prompt comes first; `ranker/examples.py` builds both.
PromptOrder = Literal["item-first", "user-first", "reranker"]
# What the ranker reads about a user, and about a candidate beside its title and images.
UserReading = Literal["preference", "history", "both"]
ItemReading = Literal["none", "text", "summary"]


class RecommendSettings(Section):
    """Prompt of the recommender, for training and scoring."""

    order: PromptOrder = Field(
        "item-first",
        description="what the prompt begins with: the candidate's image (the paper), or the user's "
        "preference, which a list of candidates then shares; reranker also begins with the "
        "preference, as the query of a reranker",
    )
    reads: UserReading = Field(
        "preference",
        description="what the prompt says about the user: the written preference (the paper), the "
        "titles of the latest items, or both",
    )
    history_items: PositiveInt = Field(
        8, description="number of latest items whose titles are read, with reads=history or both"
    )
    item_text: ItemReading = Field(
        "none",
        description="what the prompt says about the candidate beside its title: nothing (the "
        "paper), its text, or its summary",
    )
    item_words: PositiveInt = Field(
        30, description="length limit of the candidate's text or summary, in words"
    )
    use_images: bool = Field(True, description="show the candidate's images to the model")
    collaborative: str = Field(
        "none",
        description="baseline whose vectors of user and candidate the prompt contains as soft "
        "tokens, such as sasrec; it is fitted without the targets of the training",
    )
    collaborative_min_interactions: PositiveInt = Field(
        5,
        description="items with fewer interactions have no vector but a learned embedding, with "
        "collaborative",
    )

    @field_validator("collaborative", mode="before")
    @classmethod
    def _read_null(cls, value: object) -> object:
        return "none" if value is None else value

    @property
    def reads_preference(self) -> bool:
        """Return whether prompts contain the written preference."""
        return self.reads != "history"

    @property
    def reads_vectors(self) -> bool:
        """Return whether prompts contain vectors of a collaborative model."""
        return self.collaborative != "none"

    @property
    def reads_history(self) -> bool:
        """Return whether prompts contain the titles of the latest items."""
        return self.reads != "preference"


# The paper's prompt.
DEFAULT_PROMPT: Final = RecommendSettings()
