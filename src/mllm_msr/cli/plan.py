"""`plan`: estimate the cost of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli._app import app
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
from mllm_msr.cli._output import emit

if TYPE_CHECKING:
    from mllm_msr.pipeline.cost.report import CostReport


@app.command("plan", cls=settings_help())
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate tokens, hours, price and disk space of a run.

    Prepares the data and calls no model. With plan.pilot=N, models process N items and N users to
    measure output lengths and speed; the run reuses these responses.
    """
    from mllm_msr.pipeline import doctor
    from mllm_msr.pipeline.cost import estimate
    from mllm_msr.storage.layout import INTERACTIONS

    with open_pipeline(run, preset, config, settings, force=force, creates=True) as pipeline:
        if pipeline.settings.plan.pilot:
            doctor.require_available(pipeline.settings)
        # The estimate of a prepared run must not change the settings of its later commands.
        prepared = pipeline.run.has(INTERACTIONS)
        pipeline.run_stage("prepare", save_settings=not prepared)
        report = estimate.plan(pipeline.context, pipeline.settings)
    emit(report.to_dict(), as_json=as_json, plain=_format_report(report))


def _format_report(report: CostReport) -> str:
    columns = ("calls", "cached calls", "input tokens", "image tokens", "shared", "output tokens")
    header = "".join(f"{name:>15}" for name in columns)
    lines = [f"{'stage':<18}{header}{'hours':>10}{'price':>10}{'disk':>10}"]
    for stage in report.stages:
        counts = (
            stage.calls,
            stage.cached_calls,
            stage.prompt_tokens,
            stage.image_tokens,
            stage.shared_tokens,
            stage.output_tokens,
        )
        cells = "".join(f"{count:>15,}" for count in counts)
        hours = "?" if stage.seconds is None else f"{stage.seconds / 3600:.3f}"
        disk = f"{stage.disk_bytes / 2**20:>6.1f} MiB"
        done = " done" if stage.done else ""
        lines.append(f"{stage.stage:<18}{cells}{hours:>10}{stage.price:>10.2f}{disk}{done}")
    if report.orders:
        lines += ["", f"{'tokens by order of the prompt':<40}{'item-first':>15}{'user-first':>15}"]
    for cost in report.orders:
        numbers = f"{cost.item_first:>15,}{cost.user_first:>15,}"
        lines.append(f"{cost.work:<40}{numbers}   {cost.cheaper} is cheaper")
    lines += ["", *_token_lines(report)]
    hours = "hours unknown without a rate" if report.hours is None else f"{report.hours:.3f} hours"
    lines += [
        "",
        f"remaining: {report.tokens:,} tokens, {hours}, price {report.price:.2f}",
        f"prompt tokens counted by {report.counted_by}; output lengths from {report.lengths_by}",
    ]
    return "\n".join(lines)


def _token_lines(report: CostReport) -> list[str]:
    """Return a table of the tokens of prompts and images, without images if there are none."""
    columns = ("tokens/prompt", "longest prompt", "tokens/image", "largest image")
    lines = [f"{'stage':<18}" + "".join(f"{name:>15}" for name in columns)]
    for stage in report.stages:
        cells = f"{stage.tokens_per_prompt:>15,}{stage.longest_prompt:>15,}"
        if stage.images:
            cells += f"{stage.tokens_per_image:>15,}{stage.largest_image:>15,}"
        lines.append(f"{stage.stage:<18}{cells}")
    return lines
