"""Section `retrieve` of the settings; `config/settings.py` describes all others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from mllm_msr.config.fields import Section, Some


class RetrieveSettings(Section):
    """Recommendation from the full catalog."""

    generators: Some[Literal["preference", "collaborative", "recent"]] = Field(
        ("preference", "collaborative", "recent"), description="candidate generators"
    )
    encoder: str = Field(
        "hashing",
        description="text encoder: hashing, or the folder or hub id of a Transformers encoder or "
        "embedding model",
    )
    collaborative: str | None = Field(
        None,
        description="baseline that generates candidates; null uses item_knn, else popularity",
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
    budget: NonNegativeInt = Field(50, description="candidates that the MLLM ranks per request")
    order: Literal["fusion", "model"] = Field(
        "fusion",
        description="fusion combines the MLLM's ranking with the generators'; model uses it alone",
    )
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="weight of diversity in the list (MMR); 0 ranks by relevance only"
    )
    prefix_cache_bytes: NonNegativeInt = Field(
        1_000_000_000,
        description="memory for cached image prefixes of items, in bytes; for models in this "
        "process",
    )
