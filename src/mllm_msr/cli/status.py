"""`status`: show which stages of a run are done, and what is next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mllm_msr.cli._app import register
from mllm_msr.cli._options import JsonOption, parse_path
from mllm_msr.cli._output import emit, make_table, unbroken
from mllm_msr.cli._results import display_path
from mllm_msr.cli._stage_text import describe_entry
from mllm_msr.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mllm_msr.config.settings import Settings

# Baselines that are trained in seconds to minutes, in the order in which they are suggested.
_COMPARED: Final = ("item_knn", "sasrec", "content_knn", "gru4rec")
_STATES: Final = {"done": "done", "off": "off", "partly": "partly done", "open": "-"}


@dataclass(frozen=True, slots=True)
class StageStatus:
    """State of one stage.

    Attributes:
        stage: Name of the stage.
        state: "done", "partly" (some models or folds), "open", or "off" in the settings.
        seconds: Time of its finished parts.
        parts: What each finished part did, in a sentence.
        missing: Parts that are not finished.
    """

    stage: str
    state: str
    seconds: float
    parts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@register("status", "Show what is done in a run, and what is next")
def command(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Run folder; default: runs/run.", parser=parse_path),
    ] = None,
    option: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="The same.", parser=parse_path),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which stages of a run are done, how long they took, and what is next.

    Only reads, also while another process works in the run folder.
    """
    from mllm_msr.config.run_settings import load_finished_settings
    from mllm_msr.pipeline.context import RunContext
    from mllm_msr.pipeline.pipeline import Pipeline
    from mllm_msr.storage.process_lock import running_process
    from mllm_msr.storage.run_folder import RunFolder

    if run is not None and option is not None:
        raise UsageError(f"Two run folders are given, {run} and {option}. Give one.")
    folder = run or option or Path("runs/run")
    settings = load_finished_settings(folder)
    with RunFolder.open(folder, read_only=True) as opened:
        recommenders = Pipeline(RunContext(opened), settings).recommenders
        entries = opened.stages
        stages = list_stages(entries, settings, models=recommenders.names())
        process = running_process(opened.folder)
        last = last_line(opened.folder) if process is not None else None
    shown = display_path(folder)
    scored = {name.removeprefix("score/") for name in entries if name.startswith("score/")}
    steps = next_commands(stages, shown, scored=scored)
    values = {
        "run": str(folder.absolute()),
        "stages": [asdict(stage) for stage in stages],
        "process": process,
        "last_message": last,
        "next": steps,
    }
    emit(values, as_json=as_json, plain=_format(shown, stages, process, last, steps))


def list_stages(
    entries: Mapping[str, Any], settings: Settings, *, models: Sequence[str]
) -> list[StageStatus]:
    """Return the state of every stage, in the order of the pipeline.

    Args:
        entries: Entries of the manifest.
        settings: Settings of the run.
        models: Names of the recommenders to score.
    """
    from mllm_msr.pipeline.pipeline import STAGES
    from mllm_msr.storage.layout import FIT_LISTS

    found = []
    fitted = any(name.split("/")[0] == FIT_LISTS for name in entries)
    for stage in [*STAGES, FIT_LISTS] if fitted else STAGES:
        parts = {name: each for name, each in entries.items() if name.split("/")[0] == stage}
        expected = _expected_parts(stage, settings, models)
        missing = [name for name in expected if name not in parts]
        state = "partly" if parts and missing else "open" if missing else "done"
        state = "off" if not parts and not missing else state
        sentences = [
            describe_entry(
                name,
                {**each["counts"], "seconds": each["seconds"], "outputs": each["outputs"]},
                timed=len(parts) > 1,
            )
            for name, each in parts.items()
        ]
        seconds = sum(each["seconds"] for each in parts.values())
        found.append(StageStatus(stage, state, seconds, tuple(sentences), tuple(missing)))
    return found


def _expected_parts(stage: str, settings: Settings, models: Sequence[str]) -> list[str]:
    """Return the entries that a finished stage has in the manifest; none if it is switched off."""
    from mllm_msr.storage.layout import FIT_LISTS

    section = getattr(settings, stage, None)
    # `fit-lists` is a command of its own, which no run waits for.
    if getattr(section, "enabled", True) is False or stage == FIT_LISTS:
        return []
    if stage in {"train", "distill"}:
        folds = settings.data.run_folds or range(settings.data.folds)
        return [f"{stage}/{fold}" for fold in folds]
    return [f"score/{name}" for name in models] if stage == "score" else [stage]


def next_commands(stages: Sequence[StageStatus], run: str, *, scored: Collection[str]) -> list[str]:
    """Return the commands that continue a run, or use a finished one.

    Args:
        stages: The stages of the run.
        run: Path of the run, for the commands.
        scored: Models with scores; the others are suggested for a comparison.
    """
    commands = [["serve"]]
    if any(stage.state in {"open", "partly"} for stage in stages):
        commands = [["run"]]
    elif others := [name for name in _COMPARED if name not in scored]:
        commands.append(["compare", "--models", ",".join(others[:2])])
    return [shlex.join(["mllm-msr", *words, "--run", run]) for words in commands]


def last_line(folder: Path) -> str | None:
    """Return the last line of `run.log`, if there is one."""
    from mllm_msr.storage.layout import LOG

    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return lines[-1] if lines else None


def _format(
    run: str,
    stages: Sequence[StageStatus],
    process: int | None,
    last: str | None,
    steps: Sequence[str],
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from mllm_msr.pipeline.context import format_seconds
    from mllm_msr.storage.layout import REPORT_HTML

    table = make_table("stage", "state", "time", "what it did", left=(0, 1, 3), wrap=(3,))
    for stage in stages:
        text = "\n".join([*stage.parts, *(f"{name} is missing." for name in stage.missing)])
        table.add_row(
            Text(stage.stage, style="bold"),
            _STATES[stage.state],
            format_seconds(stage.seconds) if stage.parts else "",
            Text(text if stage.parts else ""),
        )
    lines = ["", f"Total time {format_seconds(sum(stage.seconds for stage in stages))}."]
    if process is not None:
        lines.append(f"Process {process} is working in this run: {last or 'no message yet'}")
    if all(stage.state in {"done", "off"} for stage in stages):
        lines.append(f"Report  {Path(run) / REPORT_HTML}")
    lines += [f"Next    {step}" for step in steps]
    return Group(Text(run, style="bold"), table, unbroken(lines))
