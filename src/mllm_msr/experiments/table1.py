"""Table 1, "Effectiveness of Multiple Images Summary": summaries of images, or their features.

GRU4Rec reads the items of a history either as the text vectors of their image descriptions or as
the vectors of an image encoder, and nothing else of their content. The paper's encoders (BERT and
VGG19) are settings: `baselines.gru4rec_f.text_encoder` and `baselines.gru4rec_f.image_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._common import Experiment, Row
from mllm_msr.pipeline.compare import Variant

_MODEL: Final = "gru4rec_f"
_SUMMARIES: Final = "Image summaries as text vectors"
_FEATURES: Final = "Image features"

# In hundredths, AUC alone.
_PAPER: Final = MappingProxyType(
    {
        "MicroLens": {_SUMMARIES: {"auc": 72.81}, _FEATURES: {"auc": 71.54}},
        "Amazon Baby": {_SUMMARIES: {"auc": 73.18}, _FEATURES: {"auc": 73.83}},
        "Amazon Video Games": {_SUMMARIES: {"auc": 74.51}, _FEATURES: {"auc": 75.32}},
    }
)


def _variant(content: str) -> Variant:
    return Variant(
        f"{_MODEL}_{content}",
        (f"score.baselines=[{_MODEL}]", f"baselines.content={content}", "train.enabled=false"),
        ("prepare", "summarize", "infer"),
    )


def _rows(settings: Settings) -> Sequence[Row]:
    del settings
    return (
        Row("image_summaries", _SUMMARIES, variant=_variant("image_summary"), model=_MODEL),
        Row("image_features", _FEATURES, variant=_variant("image"), model=_MODEL),
    )


EXPERIMENT = Experiment(
    name="table1",
    title="GRU4Rec on image summaries and on image features",
    claim=(
        "Image summaries do about as well as the features of an image network: better on one "
        "data set of three, worse on two. AUC in hundredths:"
    ),
    rows=_rows,
    reference=_PAPER,
    caveats=(
        (
            "The encoders are those of the settings; without any, texts are hashed words and "
            "images are colours, which are far from BERT and VGG19."
        ),
        "Beside the content, the model here reads item ids; of its own the paper says nothing.",
    ),
)
