"""Section `retrieve` of the settings; `config/settings.py` describes all others."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from mllm_msr.config.fields import Section, Some

# `retrieve.budget` without fitted weights: on the demo, the smallest number of 10, 20, 50 and 100
# calls that makes the lists of rank fusion significantly better (docs/results.md).
DEFAULT_BUDGET: Final = 20

# Order of a list; "auto" is one of the others.
ListOrder = Literal["auto", "fitted", "fusion", "model"]


class RetrieveSettings(Section):
    """Recommendation from the full catalog."""

    generators: Some[str] | None = Field(
        None,
        description="candidate generators: preference, collaborative, recent, or names of "
        "baselines; null uses the first three, the baseline of recommend.collaborative, and the "
        "student with distill.enabled",
    )
    encoder: str = Field(
        "hashing",
        description="text encoder: hashing, or the folder or hub id of a Transformers encoder or "
        "embedding model",
    )
    collaborative: str | None = Field(
        None,
        description="baseline of the generator collaborative; null uses item_knn, else popularity",
    )
    recent_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="fraction of interactions, the latest, that count as recent"
    )
    recent_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3,
        description="weight of recent popularity in rank fusion; generators that know the user "
        "have weight 1",
    )
    depth: PositiveInt = Field(200, description="items per candidate generator")
    budget: NonNegativeInt | None = Field(
        None,
        description="candidates that the MLLM ranks per request; null uses the number that "
        f"`fit-lists` has chosen, without it {DEFAULT_BUDGET}",
    )
    order: ListOrder = Field(
        "auto",
        description="fitted orders by the weights of `fit-lists`; fusion combines the MLLM's "
        "ranking with the generators' with fixed weights; model uses it alone; auto is fitted if "
        "the run has such weights, else fusion",
    )
    adaptive: bool = Field(
        True,
        description="stop scoring when no further candidate is likely to reach the list, with "
        "fitted weights and without diversity",
    )
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="weight of diversity in the list (MMR); 0 ranks by relevance only"
    )
    prefix_cache_bytes: NonNegativeInt = Field(
        1_000_000_000,
        description="memory for cached image prefixes of items, in bytes; for models in this "
        "process",
    )
