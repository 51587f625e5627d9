"""Stage "infer": every user's history becomes a written preference, block by block."""

from __future__ import annotations

import polars as pl

from mllm_msr.preferences import infer_preferences
from mllm_msr.preferences import n_prompts as n_preference_prompts
from mllm_msr.workspace import Workspace, before_last, usage


def run(work: Workspace) -> None:
    """Infer the preferences of the run's users."""
    settings = work.settings.infer
    arguments = settings.model_dump(mode="json", exclude={"model"})
    arguments["trail"] = work.settings.data.train_targets != "last"
    with (
        work.backend(settings.model) as backend,
        work.stage(
            "infer",
            arguments,
            inputs=["interactions", "summaries"],
            templates=("preference_first", "preference_update"),
            model=backend.identity,
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
                histories, summaries, backend, noun=work.noun, progress=advance, **arguments
            )
        stage.write("preferences", frame)
        flagged = frame.filter(pl.col("flags") != "").height
        users = frame["user_id"].n_unique()
        stage.count(users=users, blocks=frame.height, flagged=flagged, **usage(backend))
