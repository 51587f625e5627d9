"""Stage "summarize": every item's title, text and image become one summary."""

from __future__ import annotations

import polars as pl

from mllm_msr.pipeline.context import Workspace, before_last, usage
from mllm_msr.summarization.faithfulness import source_coverage
from mllm_msr.summarization.items import n_prompts as n_summary_prompts
from mllm_msr.summarization.items import summarize
from mllm_msr.summarization.preferences import items_read


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
            prompt_templates=templates,
            model=backend.fingerprint,
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
            frame = summarize(
                items, backend, item_type=work.item_type, progress=advance, **arguments
            )
        stage.write("summaries", frame)
        stage.count(
            items=frame.height, **_health(frame), **_carried(frame, items), **usage(backend)
        )


def _carried(summaries: pl.DataFrame, items: pl.DataFrame) -> dict[str, float]:
    """Mean share of the text summaries' content words that occur in title and text."""
    rows = summaries.join(items.select("item_id", "title", "text"), on="item_id")
    rows = rows.drop_nulls("text_summary").with_columns(pl.col("title", "text").fill_null(""))
    shares = [
        source_coverage(summary, f"{title} {text}")
        for summary, title, text in rows.select("text_summary", "title", "text").iter_rows()
    ]
    known = [share for share in shares if share is not None]
    return {"source_coverage": round(sum(known) / len(known), 4)} if known else {}


def _health(summaries: pl.DataFrame) -> dict[str, int]:
    """How many summaries lack something, by what they lack."""
    images = summaries["image_status"].value_counts()
    flags = summaries["flags"].str.split(",").explode().value_counts()
    return {
        **{f"image_{status}": n for status, n in images.iter_rows()},
        **{flag: n for flag, n in flags.iter_rows() if flag},
    }
