"""`ab-report`: evaluate an A/B test of a service."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import JsonOption, Overrides, RunOption
from mllm_msr.cli._output import emit, make_table
from mllm_msr.cli._serve import require_serving

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.serving.ab_report import AbReport, Estimate


@register("ab-report", "Evaluate an A/B test of the service")
def command(
    settings: Overrides = None,
    run: RunOption = Path("runs/run"),
    experiment: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the test; optional if there is only one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the variants of an A/B test, with 95% intervals of the differences.

    The service may be running. serve.state selects its database, by default that of the run folder.
    """
    require_serving()
    from mllm_msr.config.run_settings import load_finished_settings
    from mllm_msr.serving.ab_report import ab_report
    from mllm_msr.storage import layout

    state = load_finished_settings(run, settings or ()).serve.state
    default = f"sqlite:///{(run / layout.SERVICE / 'state.sqlite').absolute()}"
    report = ab_report(state or default, experiment=experiment)
    emit(asdict(report), as_json=as_json, plain=_format_report(report))


def _format_report(report: AbReport) -> RenderableType:
    """Return the tables of the variants and of their differences."""
    from rich.console import Group
    from rich.text import Text

    variants = make_table(
        "variant", "users", "shown", "interactions", "users with one", "per user", left=(0,)
    )
    for name, found in report.variants.items():
        variants.add_row(
            Text(name),
            f"{found.users:,}",
            f"{found.shown:,}",
            f"{found.interactions:,}",
            _format(found.conversion),
            _format(found.per_user),
        )
    differences = make_table("difference", "users with one", "per user", left=(0,))
    for one in report.differences:
        differences.add_row(
            Text(f"{one.second} - {one.first}"),
            _format(one.conversion, signed=True),
            _format(one.per_user, signed=True),
        )
    note = (
        "An interaction counts if the item was shown to the user before. An interval that contains "
        "0 does not show which variant is better."
    )
    if report.excluded:
        note += f" {report.excluded:,} users got lists of several variants and are left out."
    return Group(Text(f"test {report.experiment}"), "", variants, "", differences, "", note)


def _format(estimate: Estimate, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    ends = f"{estimate.low:{sign}.3f} to {estimate.high:{sign}.3f}"
    return f"{estimate.value:{sign}.3f} ({ends})"
