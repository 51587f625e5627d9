"""Figure 5, "Parameter Analysis": the number of items per block in preference inference.

Blocks have 1 to 6 items. With larger blocks, recurrent inference approaches direct inference,
because most histories then fit into two blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._experiment import Experiment, System
from mllm_msr.ranker.recommender import Variant

SIZES: Final = (1, 2, 3, 4, 5, 6)


def list_systems(settings: Settings) -> Sequence[System]:
    """Return one system per block size, the run's own size first."""
    own = settings.infer.block_size
    systems = []
    for size in (own, *(size for size in SIZES if size != own)):
        name = f"blocks_of_{size}"
        # The block size can change the training targets, so "prepare" is not shared.
        overrides = (f"infer.block_size={size}",)
        variant = Variant(name, overrides=overrides, shares=("summarize",))
        label = f"{size} item{'s' if size > 1 else ''}"
        systems.append(System(name, label, x=size, variant=None if size == own else variant))
    return systems


EXPERIMENT = Experiment(
    name="figure5",
    title="Block size in recurrent preference inference",
    claim=(
        "Very small and very large blocks are both worse than blocks of a few items; the paper "
        "uses three. The figure prints no numbers, so none are given here."
    ),
    systems=list_systems,
    axis="items per block",
    caveats=(
        (
            "Only the block size differs. The test candidates are the same, and so are the "
            "training targets unless data.train_targets is 'blocks'."
        ),
    ),
)
