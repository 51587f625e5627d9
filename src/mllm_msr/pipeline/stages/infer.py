"""Stage "infer": every user's history becomes a written preference, block by block."""

from __future__ import annotations

import polars as pl

from mllm_msr.pipeline.context import Workspace, before_last, usage
from mllm_msr.summarization.preferences import infer_preferences
from mllm_msr.summarization.preferences import n_prompts as n_preference_prompts


def run(work: Workspace) -> None:
    """Infer the preferences of the run's users."""
    settings = work.settings.infer
    arguments = settings.model_dump(mode="json", exclude={"model"})
    arguments["every_block"] = work.settings.data.train_targets != "last"
    with (
        work.backend(settings.model) as backend,
        work.stage(
            "infer",
            arguments,
            inputs=["interactions", "summaries"],
            prompt_templates=("preference_first", "preference_update"),
            model=backend.fingerprint,
        ) as stage,
    ):
        if stage.finished:
            return
        histories = before_last(work.run.read("interactions"))
        summaries = work.run.read("summaries")
        total = n_preference_prompts(
            histories, block_size=settings.block_size, max_items=settings.max_items
        )
        with work.progress("infer", total) as advance:
            frame = infer_preferences(
                histories,
                summaries,
                backend,
                item_type=work.item_type,
                progress=advance,
                **arguments,
            )
        stage.write("preferences", frame)
        flagged = frame.filter(pl.col("flags") != "").height
        users = frame["user_id"].n_unique()
        stage.count(users=users, blocks=frame.height, flagged=flagged, **usage(backend))
