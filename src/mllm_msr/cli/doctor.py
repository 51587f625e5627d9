"""`doctor`: check the installation and the configured models."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mllm_msr.cli._app import app
from mllm_msr.cli._options import ConfigOption, JsonOption, Overrides, PresetOption
from mllm_msr.cli._output import emit

if TYPE_CHECKING:
    from mllm_msr.pipeline.doctor import Finding

_LABELS: Final = {"ok": "ok", "absent": "-", "broken": "BROKEN"}


@app.command("doctor")
def command(
    settings: Overrides = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check for packages without importing them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this installation and the configured models.

    Models are only checked if settings are given. Exits with code 1 if a check fails; a missing
    optional dependency is not a failure.
    """
    from mllm_msr.pipeline.doctor import examine

    findings = list(examine(deep=not quick))
    if settings or preset or config:
        findings += _check_models(settings or [], preset, config)
    n_broken = sum(finding.state == "broken" for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_LABELS[finding.state]:<8}{finding.name:<22}{finding.detail}")
        if finding.fix:
            lines.append(f"{'':<30}-> {finding.fix}")
    report = {"broken": n_broken, "findings": [asdict(finding) for finding in findings]}
    emit(report, as_json=as_json, plain="\n".join(lines))
    if n_broken:
        raise typer.Exit(1)


def _check_models(
    overrides: Sequence[str], preset: str | None, config: Path | None
) -> Iterator[Finding]:
    from mllm_msr import registry
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.doctor import check_backend

    settings = load_settings(preset or "default", overrides, file=config)
    models = {
        "model": settings.model,
        "summarize.model": settings.summarize.model,
        "infer.model": settings.infer.model,
        "score.model": settings.score.model,
    }
    for name, model in models.items():
        if model is not None:
            backend = registry.find("backends", model.backend)
            yield check_backend(name, functools.partial(backend, **model.plugin_kwargs()))
