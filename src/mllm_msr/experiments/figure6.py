"""Figure 6, "Parameter Analysis": the length limit of the written preference.

The prompt states the limit, and longer responses are truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._experiment import Experiment, System
from mllm_msr.ranker.recommender import Variant

# The demo model writes about 22 words; large models write as much as the limit allows.
LIMITS: Final = (10, 15, 20, 40)


def list_systems(settings: Settings) -> Sequence[System]:
    """Return one system per length limit, the run's own limit first."""
    own = settings.infer.words
    systems = []
    for words in (own, *(words for words in LIMITS if words != own)):
        name = f"words_{words}"
        overrides = (f"infer.words={words}",)
        variant = Variant(name, overrides=overrides, shares=("prepare", "summarize"))
        label = f"{words} words"
        systems.append(System(name, label, x=words, variant=None if words == own else variant))
    return systems


EXPERIMENT = Experiment(
    name="figure6",
    title="Length limit of the written preference",
    claim=(
        "Short preferences lose information. Beyond some length the results no longer change. The "
        "figure prints no numbers, so none are given here."
    ),
    systems=list_systems,
    axis="words of the preference, at most",
    caveats=(
        (
            "A model may write less than the limit allows. Limits above its usual length only "
            "change its prompt."
        ),
    ),
)
