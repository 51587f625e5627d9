"""`plan`: estimate the cost of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli._app import register
from mllm_msr.cli._open_run import open_pipeline
from mllm_msr.cli._options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    settings_help,
)
from mllm_msr.cli._output import emit, make_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mllm_msr.pipeline.cost.report import CostReport, ListCalls, StageCost
    from mllm_msr.pipeline.pipeline import Pipeline


@register("plan", "Estimate tokens, hours, price and disk of a run", cls=settings_help())
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate tokens, hours, price, memory and disk space of a run.

    Prepares the data and calls no model. With plan.pilot=N, models process N items and N users to
    measure output lengths and speed; the run reuses these responses. A recommendation list has as
    many calls as retrieve.budget, or else as `fit-lists` has chosen.
    """
    from mllm_msr.pipeline import doctor
    from mllm_msr.pipeline.cost import estimate
    from mllm_msr.pipeline.cost.token_counter import TokenizerCounter
    from mllm_msr.storage.layout import INTERACTIONS

    with open_pipeline(run, preset, config, settings, force=force, creates=True) as pipeline:
        if pipeline.settings.plan.pilot:
            doctor.require_available(pipeline.settings)
        # The estimate of a prepared run must not change the settings of its later commands.
        prepared = pipeline.run.has(INTERACTIONS)
        pipeline.run_stage("prepare", save_settings=not prepared)
        report = estimate.plan(pipeline.context, pipeline.settings, lists=_list_calls(pipeline))
        if TokenizerCounter.basis in report.counted_by:
            from mllm_msr.pipeline.cost.memory import with_memory

            report = with_memory(report, pipeline.settings)
    emit(report.to_dict(), as_json=as_json, plain=_format_report(report))


def _list_calls(pipeline: Pipeline) -> ListCalls:
    """Return the calls of a list of the run, made as `recommend` and `serve` would make it."""
    from mllm_msr.pipeline.cost.report import ListCalls
    from mllm_msr.recommend.list_weights import choose_plan

    settings = pipeline.settings
    if settings.retrieve.order == "fitted":
        # A run is also planned before there are weights that belong to it.
        settings = pipeline.with_settings({"retrieve.order": "auto"}).settings
    chosen = choose_plan(pipeline.run, settings, pipeline.tables.fold(None))
    return ListCalls(chosen.budget, str(chosen))


def _format_report(report: CostReport) -> RenderableType:
    """Return the costs by stage, the tokens by stage, the prompt orders, and what remains."""
    from rich.console import Group

    orders: list[RenderableType] = []
    if report.orders:
        orders = [_orders_table(report), *([report.lists.reason] if report.lists else []), ""]
    hours = "unknown time without a rate" if report.hours is None else f"{report.hours:.3f} hours"
    summary = (
        f"Remaining: {report.tokens:,} tokens, {hours}, price {report.price:.2f}.\n"
        f"Prompt tokens are counted by {report.counted_by}; output lengths come from "
        f"{report.lengths_by}."
    )
    if report.hours is None:
        summary += " For hours, add plan.pilot=20, which measures a rate."
    return Group(_costs_table(report), "", _tokens_table(report), "", *orders, summary)


def _costs_table(report: CostReport) -> Table:
    """Return calls, hours, price, disk and, for models in this process, memory of each stage."""
    columns = ["stage", "state", "calls", "cached", "hours", "price", "disk"]
    has_memory = any(stage.memory_bytes for stage in report.stages)
    table = make_table(*columns, *(["memory"] if has_memory else []), left=(0, 1))
    for stage in report.stages:
        table.add_row(
            stage.stage,
            "done" if stage.done else "open",
            f"{stage.calls:,}",
            f"{stage.cached_calls:,}",
            "?" if stage.seconds is None else f"{stage.seconds / 3600:.3f}",
            f"{stage.price:.2f}",
            f"{stage.disk_bytes / 2**20:.1f} MiB",
            *([_memory(stage)] if has_memory else []),
        )
    return table


def _memory(stage: StageCost) -> str:
    return f"{stage.memory_bytes / 2**30:.1f} GiB" if stage.memory_bytes else "?"


def _tokens_table(report: CostReport) -> Table:
    """Return the tokens of each stage: in all prompts, in one prompt, and in one image."""
    table = make_table("tokens", "input", "images", "shared", "output", "per prompt", "per image")
    for stage in report.stages:
        table.add_row(
            stage.stage,
            f"{stage.prompt_tokens:,}",
            f"{stage.image_tokens:,}",
            f"{stage.shared_tokens:,}",
            f"{stage.output_tokens:,}",
            f"{stage.tokens_per_prompt:,} (max {stage.longest_prompt:,})",
            f"{stage.tokens_per_image:,} (max {stage.largest_image:,})" if stage.images else "",
        )
    return table


def _orders_table(report: CostReport) -> Table:
    table = make_table("tokens by order of the prompt", "item-first", "user-first", "cheaper")
    for cost in report.orders:
        table.add_row(cost.work, f"{cost.item_first:,}", f"{cost.user_first:,}", cost.cheaper)
    return table
