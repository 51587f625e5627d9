"""Candidate generators of the settings, and the baselines among them."""

from __future__ import annotations

from typing import Final

from mllm_msr import registry
from mllm_msr.config.settings import Settings

# Candidate generators that are not baselines; `config/checks.py` checks the others.
GENERATORS: Final = ("preference", "collaborative", "recent")
# The generator that `distill` adds.
STUDENT: Final = "student"


def candidate_generators(settings: Settings) -> dict[str, str | None]:
    """Return the names of the candidate generators, each with its baseline or `None`.

    By default, a run also uses the baselines that it has fitted for its ranker.
    """
    retrieve, ranker = settings.retrieve, settings.recommend
    default = "item_knn" if "item_knn" in registry.names("baselines") else "popularity"
    collaborative = retrieve.collaborative or default
    names = retrieve.generators
    if names is None:
        own = [STUDENT] if settings.distill.enabled else []
        own += [ranker.collaborative] if ranker.reads_vectors else []
        names = (*(name for name in own if name != collaborative), *GENERATORS)
    baselines = {"collaborative": collaborative, "preference": None, "recent": None}
    return {name: baselines.get(name, name) for name in names}
