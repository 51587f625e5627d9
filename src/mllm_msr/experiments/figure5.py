"""Figure 5, "Parameter Analysis": how many items of the history the preference reads at a time.

Blocks of 1 to 6 items; with larger blocks the recurrent inference comes closer to the direct one,
as a typical history then fits into two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._common import Experiment, Row
from mllm_msr.pipeline.compare import Variant

SIZES: Final = (1, 2, 3, 4, 5, 6)


def _rows(settings: Settings) -> Sequence[Row]:
    own = settings.infer.block_size
    others = (size for size in SIZES if size != own)
    # Blocks may decide about training targets, so that "prepare" is done again.
    return tuple(
        Row(
            f"blocks_of_{size}",
            f"{size} item{'s' if size > 1 else ''}",
            x=size,
            variant=None
            if size == own
            else Variant(f"blocks_of_{size}", (f"infer.block_size={size}",), ("summarize",)),
        )
        for size in (own, *others)
    )


EXPERIMENT = Experiment(
    name="figure5",
    title="Size of the blocks in recurrent preference inference",
    claim=(
        "Too small and too large blocks are both worse than blocks of a few items, of which the "
        "paper takes three; the figure prints no numbers, so none are given here."
    ),
    rows=_rows,
    axis="items per block",
    caveats=(
        (
            "Only the size of the blocks differs; test candidates are the same, and training "
            "targets too, unless data.train_targets is 'blocks'."
        ),
    ),
)
