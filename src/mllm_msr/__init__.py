"""MLLM-MSR: multimodal sequential recommendation with multimodal large language models.

The names below are resolved on first use, so that importing the package loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Backend": "interfaces",
    "CachedBackend": "caching",
    "Dataset": "interfaces",
    "Item": "records",
    "MllmMsr": "recommending",
    "MllmMsrError": "errors",
    "Pipeline": "pipeline",
    "Prompt": "records",
    "RawData": "interfaces",
    "Recommender": "interfaces",
    "RunFolder": "store",
    "TrainingData": "interfaces",
    "build_examples": "recommender.examples",
    "draw_candidates": "data.negatives",
    "evaluate_scores": "evaluation.evaluator",
    "infer_preferences": "preferences",
    "load_settings": "config",
    "prepare_interactions": "data.interactions",
    "score_examples": "recommender.scorer",
    "split_users": "data.splits",
    "summarize": "summaries",
}

__all__ = ["__version__", *_HOMES]  # noqa: PLE0604 - names that __getattr__ resolves


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
