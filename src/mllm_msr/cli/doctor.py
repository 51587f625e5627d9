"""`doctor`: check the installation and the configured models."""

from __future__ import annotations

import contextlib
import functools
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import ConfigOption, JsonOption, Overrides, PresetOption
from mllm_msr.cli._output import emit

if TYPE_CHECKING:
    from mllm_msr.pipeline.doctor import Finding

_WIDTH: Final = 80  # characters of a line
_WORKS: Final = "Nothing is broken."
_BROKEN: Final = "Repair what is BROKEN, with the commands below it."
_OPTIONAL: Final = "Packages with '-' are optional."
_LABELS: Final = {"ok": "ok", "absent": "-", "broken": "BROKEN"}


@register("doctor", "Check this installation and its models")
def command(
    settings: Overrides = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Check for packages without importing them, and models without loading."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this installation and the configured models.

    Models are only checked if settings are given. Models that run in this process are loaded and
    tried: a prompt with an image, an answer, a batch and a training step. Exits with code 1 if a
    check fails; a missing optional dependency is not a failure.
    """
    from mllm_msr.pipeline.doctor import examine

    findings = []
    checks = examine(deep=not quick)
    if settings or preset or config:
        checks = itertools.chain(
            checks, _check_models(settings or [], preset, config, deep=not quick)
        )
    for finding in checks:  # each takes up to several seconds
        findings.append(finding)
        if not as_json:
            typer.echo(_format(finding))
    n_broken = sum(finding.state == "broken" for finding in findings)
    if as_json:
        report = {"broken": n_broken, "findings": [asdict(finding) for finding in findings]}
        emit(report, as_json=True)
    else:
        missing = any(finding.state == "absent" for finding in findings)
        optional = f" {_OPTIONAL}" if missing else ""
        typer.echo(f"{_BROKEN if n_broken else _WORKS}{optional}")
    if n_broken:
        raise typer.Exit(1)


def _format(finding: Finding) -> str:
    start = f"{_LABELS[finding.state]:<8}{finding.name:<26} "
    # Paths and commands are not broken, so that they can be copied.
    lines = textwrap.wrap(
        finding.detail, _WIDTH - len(start), break_long_words=False, break_on_hyphens=False
    )
    text = f"\n{'':<{len(start)}}".join(lines)
    return f"{start}{text}\n{'':<8}-> {finding.fix}" if finding.fix else f"{start}{text}"


def _check_models(
    overrides: Sequence[str], preset: str | None, config: Path | None, *, deep: bool
) -> Iterator[Finding]:
    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.backends import backend_class, open_for_check
    from mllm_msr.pipeline.doctor import check_backend

    loaded = load_settings(preset or "default", overrides, file=config)
    for name, model in loaded.models().items():
        typer.echo(f"checking {name} ({model.backend}) ...", err=True)
        found = check_backend(name, functools.partial(open_for_check, model))
        yield found
        if deep and found.state == "ok" and backend_class(model).is_local:
            from mllm_msr.pipeline.model_trial import try_model

            with contextlib.closing(open_for_check(model)) as backend:
                yield from try_model(name, backend)
