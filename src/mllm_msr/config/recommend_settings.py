"""Section `recommend` of the settings; `config/settings.py` describes all others."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mllm_msr.config.fields import Section

# Which part of the ranker's prompt comes first; `ranker/examples.py` builds both.
PromptOrder = Literal["item-first", "user-first", "reranker"]


class RecommendSettings(Section):
    """Prompt of the recommender, for training and scoring."""

    order: PromptOrder = Field(
        "item-first",
        description="what the prompt begins with: the candidate's image (the paper), or the user's "
        "preference, which a list of candidates then shares; reranker also begins with the "
        "preference, as the query of a reranker",
    )
