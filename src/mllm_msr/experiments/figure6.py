"""Figure 6, "Parameter Analysis": how long the preference may be.

The limit is given to the model in its prompt, and longer answers are cut at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._common import Experiment, Row
from mllm_msr.pipeline.compare import Variant

# Around what models write: the packaged one uses some 22 words, large ones fill what they get.
LIMITS: Final = (10, 15, 20, 40)


def _rows(settings: Settings) -> Sequence[Row]:
    own = settings.infer.words
    shares = ("prepare", "summarize")
    return tuple(
        Row(
            f"words_{words}",
            f"{words} words",
            x=words,
            variant=None
            if words == own
            else Variant(f"words_{words}", (f"infer.words={words}",), shares),
        )
        for words in (own, *(words for words in LIMITS if words != own))
    )


EXPERIMENT = Experiment(
    name="figure6",
    title="Length limit of the written preference",
    claim=(
        "Short preferences lose information; from some length on the results stay level. The "
        "figure prints no numbers, so none are given here."
    ),
    rows=_rows,
    axis="words of the preference, at most",
    caveats=(
        (
            "A model may write less than it is allowed; limits above its habit change nothing but "
            "its prompt."
        ),
    ),
)
