"""`plan`: what a run will cost, before it costs anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_msr.cli.app import app
from mllm_msr.cli.open_run import open_pipeline
from mllm_msr.cli.options import (
    ConfigOption,
    ForceOption,
    JsonOption,
    Overrides,
    PresetOption,
    RunOption,
    StageCommand,
)
from mllm_msr.cli.output import emit

if TYPE_CHECKING:
    from mllm_msr.pipeline.cost.report import Plan


@app.command("plan", cls=StageCommand)
def _plan(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    preset: PresetOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate calls, tokens, hours, price and disk; prepares the data, asks no model.

    With plan.pilot=N the models answer N items and users, for real lengths and speed; the run
    takes these responses over.
    """
    from mllm_msr.pipeline.cost import estimate

    with open_pipeline(run, preset, config, settings, force=force) as pipeline:
        pipeline.run_stage("prepare")
        found = estimate.plan(pipeline.workspace)
    emit(found.to_dict(), as_json=as_json, plain="\n".join(_lines(found)))


def _lines(plan: Plan) -> Iterator[str]:
    columns = ("calls", "spared", "read", "of it images", "can be shared", "written")
    head = "".join(f"{name:>15}" for name in columns)
    yield f"{'stage':<18}{head}{'hours':>10}{'price':>10}{'disk':>10}"
    for s in plan.stages:
        numbers = (s.calls, s.spared_calls, s.prompt_tokens, s.image_tokens, s.shared_tokens)
        cells = "".join(f"{n:>15,}" for n in (*numbers, s.output_tokens))
        hours = f"{s.seconds / 3600:>10.3f}" if s.seconds is not None else f"{'?':>10}"
        disk = f"{s.disk_bytes / 2**20:>6.1f} MiB"
        yield f"{s.stage:<18}{cells}{hours}{s.price:>10.2f}{disk}{' done' if s.done else ''}"
    hours = f"{plan.hours:.3f} hours" if plan.hours is not None else "no rate known for hours"
    yield ""
    yield f"still to do: {plan.tokens:,} tokens, {hours}, price {plan.price:.2f}"
    yield f"prompts counted by {plan.counted_by}; lengths of answers: {plan.lengths_by}"
