"""MLLM-MSR: multimodal sequential recommendation with multimodal large language models.

`docs/python.md` describes the public names. They are imported on first use, so that
`import mllm_msr` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the same names as in _MODULES
    from mllm_msr import registry
    from mllm_msr.config.loading import load_settings
    from mllm_msr.config.settings import Settings
    from mllm_msr.errors import MllmMsrError
    from mllm_msr.evaluation.evaluator import evaluate_scores
    from mllm_msr.pipeline.compare import compare
    from mllm_msr.pipeline.pipeline import Pipeline, evaluate_files
    from mllm_msr.pipeline.run_result import RunReport, RunResult
    from mllm_msr.recommend.batch import RecommendationBatch
    from mllm_msr.recommend.lists import Recommendation, RecommendationList
    from mllm_msr.recommend.recommender import MllmMsr
    from mllm_msr.summarization.items import summarize
    from mllm_msr.summarization.preferences import infer_preferences

__version__ = "0.1.0"

__all__ = [
    "MllmMsr",
    "MllmMsrError",
    "Pipeline",
    "Recommendation",
    "RecommendationBatch",
    "RecommendationList",
    "RunReport",
    "RunResult",
    "Settings",
    "__version__",
    "compare",
    "evaluate_files",
    "evaluate_scores",
    "infer_preferences",
    "load_settings",
    "registry",
    "summarize",
]

# The module of each public name; None if the name is a module.
_MODULES: Final = {
    "MllmMsr": "recommend.recommender",
    "MllmMsrError": "errors",
    "Pipeline": "pipeline.pipeline",
    "Recommendation": "recommend.lists",
    "RecommendationBatch": "recommend.batch",
    "RecommendationList": "recommend.lists",
    "RunReport": "pipeline.run_result",
    "RunResult": "pipeline.run_result",
    "Settings": "config.settings",
    "compare": "pipeline.compare",
    "evaluate_files": "pipeline.pipeline",
    "evaluate_scores": "evaluation.evaluator",
    "infer_preferences": "summarization.preferences",
    "load_settings": "config.loading",
    "registry": None,
    "summarize": "summarization.items",
}

if not TYPE_CHECKING:  # type checkers would accept every name

    def __getattr__(name: str) -> Any:
        """Import a public name on first use."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        errors = importlib.import_module(f"{__name__}.errors")
        with errors.convert_missing_extras():
            module = importlib.import_module(f"{__name__}.{_MODULES[name] or name}")
        return getattr(module, name) if _MODULES[name] else module


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
