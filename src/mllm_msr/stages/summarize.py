"""Stage "summarize": every item's title, text and picture become one summary."""

from __future__ import annotations

import polars as pl

from mllm_msr.preferences import items_read
from mllm_msr.summaries import n_prompts as n_summary_prompts
from mllm_msr.summaries import summarize
from mllm_msr.workspace import Workspace, before_last, usage


def run(work: Workspace) -> None:
    """Summarise the run's items."""
    settings = work.settings.summarize
    arguments = settings.model_dump(mode="json", exclude={"model", "scope"})
    infer = work.settings.infer
    conditions = dict(arguments)
    if settings.scope == "read":
        conditions |= {"block_size": infer.block_size, "max_items": infer.max_items}
    templates = ("text_summary", "image_description", "fusion")
    with (
        work.backend(settings.model) as backend,
        work.stage(
            "summarize",
            conditions,
            inputs=["items", "interactions"],
            templates=templates,
            model=backend.identity,
        ) as stage,
    ):
        if stage.finished:
            return
        items = work.items()
        if settings.scope == "read":
            histories = before_last(work.run.read("interactions"))
            read = items_read(histories, block_size=infer.block_size, max_items=infer.max_items)
            items = items.filter(pl.col("item_id").is_in(read.implode()))
        with work.progress("summarize", n_summary_prompts(items, settings.modalities)) as advance:
            frame = summarize(items, backend, noun=work.noun, progress=advance, **arguments)
        stage.write("summaries", frame)
        stage.count(items=frame.height, **_health(frame), **usage(backend))


def _health(summaries: pl.DataFrame) -> dict[str, int]:
    """How many summaries lack something, by what they lack."""
    images = summaries["image_status"].value_counts()
    flags = summaries["flags"].str.split(",").explode().value_counts()
    return {
        **{f"image_{status}": n for status, n in images.iter_rows()},
        **{flag: n for flag, n in flags.iter_rows() if flag},
    }
