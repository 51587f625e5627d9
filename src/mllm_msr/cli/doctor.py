"""`doctor`: what is installed, what is broken, and how to mend it."""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_msr.cli.app import app
from mllm_msr.cli.options import ConfigOption, JsonOption, Overrides, PresetOption
from mllm_msr.cli.output import emit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mllm_msr.pipeline.doctor import Finding

_MARKS = {"ok": "ok", "absent": "-", "broken": "BROKEN"}


@app.command("doctor")
def _doctor(
    settings: Overrides = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look for packages without importing them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this installation and, where settings are given, the models that they name.

    Ends with exit code 1 where something is broken; an extra that is absent is not.
    """
    from mllm_msr.pipeline.doctor import examine

    findings = list(examine(deep=not quick))
    if settings or preset or config:
        findings += _models(settings or [], preset, config)
    broken = [finding for finding in findings if finding.state == "broken"]
    report = {"broken": len(broken), "findings": [asdict(finding) for finding in findings]}
    emit(report, as_json=as_json, plain="\n".join(_lines(findings)))
    if broken:
        raise typer.Exit(1)


def _models(settings: list[str], preset: str | None, config: Path | None) -> Iterator[Finding]:
    from mllm_msr import registry
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.doctor import check_backend

    chosen = load_settings(preset or "default", settings, file=config)
    models = {
        "model": chosen.model,
        "summarize.model": chosen.summarize.model,
        "infer.model": chosen.infer.model,
        "score.model": chosen.score.model,
    }
    for name, model in models.items():
        if model is not None:
            made = functools.partial(
                registry.find("backends", model.backend), **model.plugin_kwargs()
            )
            yield check_backend(name, made)


def _lines(findings: list[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{_MARKS[finding.state]:<8}{finding.name:<22}{finding.detail}"
        if finding.remedy:
            yield f"{'':<8}{'':<22}-> {finding.remedy}"
