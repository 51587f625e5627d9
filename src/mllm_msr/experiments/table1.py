"""Table 1, "Effectiveness of Multiple Images Summary": image summaries or image features.

The content of an item in GRU4Rec is either the text embedding of its image description or the
features of an image encoder. The paper's encoders (BERT and VGG19) can be set with
`baselines.gru4rec_f.text_encoder` and `baselines.gru4rec_f.image_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from mllm_msr.config.settings import Settings
from mllm_msr.experiments._experiment import Experiment, System
from mllm_msr.ranker.recommender import Variant

_MODEL: Final = "gru4rec_f"
_SUMMARIES: Final = "Image summaries as text embeddings"
_FEATURES: Final = "Image features"

# In percent; the paper only prints AUC.
_PAPER: Final = MappingProxyType(
    {
        "MicroLens": {_SUMMARIES: {"auc": 72.81}, _FEATURES: {"auc": 71.54}},
        "Amazon Baby": {_SUMMARIES: {"auc": 73.18}, _FEATURES: {"auc": 73.83}},
        "Amazon Video Games": {_SUMMARIES: {"auc": 74.51}, _FEATURES: {"auc": 75.32}},
    }
)


def _system(name: str, label: str, content: str) -> System:
    variant = Variant(
        f"{_MODEL}_{content}",
        overrides=(f"baselines.content={content}",),
        shares=("prepare", "summarize", "infer"),
    )
    return System(name, label, variant=variant, model=_MODEL)


def list_systems(settings: Settings) -> Sequence[System]:
    """Return GRU4Rec with image summaries and with image features."""
    del settings
    return (
        _system("image_summaries", _SUMMARIES, "image_summary"),
        _system("image_features", _FEATURES, "image"),
    )


EXPERIMENT = Experiment(
    name="table1",
    title="GRU4Rec with image summaries and with image features",
    claim=(
        "Image summaries are about as good as the features of an image network: better on one "
        "dataset of three, worse on two. AUC in percent:"
    ),
    systems=list_systems,
    reference=_PAPER,
    caveats=(
        (
            "The settings select the encoders. By default, texts are encoded as hashed words and "
            "images as color and edge statistics, which are much weaker than BERT and VGG19."
        ),
        "The model also uses item ids; the paper does not state whether its model does.",
    ),
)
