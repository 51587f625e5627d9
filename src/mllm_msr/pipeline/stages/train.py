"""Stage "train": fine-tune the recommender on the training candidates of a fold.

Section "Tuning MLLM based Recommender" of the paper.
"""

from __future__ import annotations

import math

from mllm_msr.interfaces import TrainingData
from mllm_msr.ranker.recommender import MllmRecommender


def train(model: MllmRecommender, data: TrainingData) -> dict[str, float]:
    """Fine-tune a recommender.

    Args:
        model: Recommender, which writes weights and training states into its output folder.
        data: Training data of the fold, with preferences and summaries.

    Returns:
        Numbers of examples and steps, best validation AUC and its step, examples per second, and
        examples whose image cannot be read.
    """
    summary = model.fit(data).training_summary
    if summary is None:
        return {}
    return {
        "examples": model.n_examples,
        "best_auc": summary.best_auc if summary.best_auc is not None else math.nan,
        "best_step": summary.best_step,
        "steps": summary.steps,
        "samples_per_second": summary.samples_per_second,
        "without_image": model.usage()["without_image"],
    }
