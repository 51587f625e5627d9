"""MLLM-MSR: multimodal sequential recommendation with multimodal large language models.

The names below are resolved on first use, so that importing the package loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
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

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - names that __getattr__ resolves


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
