"""Figure 4, "Ablation Study": direct instead of recurrent inference, no image summaries.

MLLM-MSR_R infers the preference from the whole history in one prompt. MLLM-MSR_T infers it without
image summaries; its ranker still sees the candidate's image. MLLM-MSR without fine-tuning is added
for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._experiment import Experiment, System
from mllm_msr.ranker.recommender import DIRECT, MLLM_MSR, TEXT_ONLY, VARIANTS, ZERO_SHOT


def list_systems(settings: Settings) -> Sequence[System]:
    """Return MLLM-MSR, its two ablations and, if the run trains, the zero-shot ranker."""
    systems = [
        System(MLLM_MSR, VARIANTS[MLLM_MSR].label),
        System(DIRECT.name, DIRECT.label, variant=DIRECT),
        System(TEXT_ONLY.name, TEXT_ONLY.label, variant=TEXT_ONLY),
    ]
    if settings.train.enabled:
        systems.append(System(ZERO_SHOT, VARIANTS[ZERO_SHOT].label, model=ZERO_SHOT))
    return systems


EXPERIMENT = Experiment(
    name="figure4",
    title="Ablations: direct inference, no image summaries, no fine-tuning",
    claim=(
        "The full system is better than both ablations on all three datasets of the paper. The "
        "figure prints no numbers, so none are given here."
    ),
    systems=list_systems,
)
