"""MLLM-MSR: multimodal sequential recommendation with multimodal large language models.

The public names are imported on first use, so that `import mllm_msr` loads neither torch nor
transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the same names as in _MODULES
    from mllm_msr.config.loading import load_settings
    from mllm_msr.data.negative_sampling import draw_candidates
    from mllm_msr.data.preprocessing import prepare_interactions
    from mllm_msr.data.splits import split_users
    from mllm_msr.errors import MllmMsrError
    from mllm_msr.evaluation.evaluator import evaluate_scores
    from mllm_msr.inference.cached import CachedBackend
    from mllm_msr.interfaces import Backend, Dataset, RawData, Recommender, TrainingData
    from mllm_msr.pipeline.pipeline import Pipeline
    from mllm_msr.ranker.examples import build_examples
    from mllm_msr.ranker.scoring import score_examples
    from mllm_msr.recommend.recommender import MllmMsr
    from mllm_msr.storage.run_folder import RunFolder
    from mllm_msr.summarization.items import summarize
    from mllm_msr.summarization.preferences import infer_preferences
    from mllm_msr.types import Item, Prompt

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "CachedBackend",
    "Dataset",
    "Item",
    "MllmMsr",
    "MllmMsrError",
    "Pipeline",
    "Prompt",
    "RawData",
    "Recommender",
    "RunFolder",
    "TrainingData",
    "__version__",
    "build_examples",
    "draw_candidates",
    "evaluate_scores",
    "infer_preferences",
    "load_settings",
    "prepare_interactions",
    "score_examples",
    "split_users",
    "summarize",
]

# The module of each public name.
_MODULES: Final = {
    "Backend": "interfaces",
    "CachedBackend": "inference.cached",
    "Dataset": "interfaces",
    "Item": "types",
    "MllmMsr": "recommend.recommender",
    "MllmMsrError": "errors",
    "Pipeline": "pipeline.pipeline",
    "Prompt": "types",
    "RawData": "interfaces",
    "Recommender": "interfaces",
    "RunFolder": "storage.run_folder",
    "TrainingData": "interfaces",
    "build_examples": "ranker.examples",
    "draw_candidates": "data.negative_sampling",
    "evaluate_scores": "evaluation.evaluator",
    "infer_preferences": "summarization.preferences",
    "load_settings": "config.loading",
    "prepare_interactions": "data.preprocessing",
    "score_examples": "ranker.scoring",
    "split_users": "data.splits",
    "summarize": "summarization.items",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
