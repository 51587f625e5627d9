"""The manifest of a run folder: the finished stages, what they depended on and what they wrote.

`storage/run_folder.py` writes `manifest.json` and compares hashes before it uses an output. The
report reads the cost of each stage from it. The file is meant to be readable by people as well. It
contains the hash of its own content, so that damage is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final, TypedDict

from mllm_msr.errors import DamagedFileError, RunFolderError, StaleStageError
from mllm_msr.storage import atomic, layout, verification

# Format version of run folders. Increase it when a change makes existing run folders unreadable:
# different tables or columns, names of files, flags or counts, or settings in the manifest.
FORMAT: Final = 3

# The stage that writes each output, by the first part of the output's path. Used only to name the
# stage to run in error messages.
_WRITTEN_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        layout.DATASET: "prepare",
        layout.INTERACTIONS: "prepare",
        layout.ITEMS: "prepare",
        layout.SPLITS: "prepare",
        layout.CANDIDATES: "prepare",
        layout.ALIGNMENT: "align",
        layout.SUMMARIES: "summarize",
        layout.PREFERENCES: "infer",
        layout.ADAPTER: "train",
        layout.MODEL: "train",
        layout.FOLDS: "train",
        layout.TEACHER: "distill",
        layout.LISTS: layout.FIT_LISTS,
        layout.SCORES: "score",
        layout.RANKS: "score",
        layout.TOP: "score",
        layout.CALIBRATION: "score",
        layout.TARGET_PROFILES: "evaluate",
        layout.DETAILS: "evaluate",
        layout.METRICS: "evaluate",
        layout.METRICS_PER_USER: "evaluate",
        layout.REPORT_HTML: "report",
        layout.REPORT_MARKDOWN: "report",
    }
)


class Record(TypedDict):
    """Hash and size of one output.

    Attributes:
        sha256: Hexadecimal SHA-256 as `atomic.content_hash` computes it.
        bytes: Size of the file, or of all files of the folder.
    """

    sha256: str
    bytes: int


class Conditions(TypedDict):
    """What the outputs of a stage depend on. If it changes, a finished stage is stale.

    Attributes:
        settings: Settings of the stage by name.
        inputs: Hash of each input by name.
        templates: Hash of each prompt template by name.
        model: Fingerprint of the model that the stage calls, or `None`.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    templates: dict[str, str]
    model: str | None


class Environment(TypedDict, total=False):
    """Where a stage was run; informative only, so that it may be absent.

    Attributes:
        hardware: See `hardware.describe_hardware`.
    """

    hardware: str


class Entry(Conditions, Environment):
    """A finished stage.

    Attributes:
        counts: Numbers that the stage counted, such as items and tokens.
        seconds: Wall-clock time of the stage.
        outputs: The outputs by path relative to the run folder.
    """

    counts: dict[str, float]
    seconds: float
    outputs: dict[str, Record]


@dataclass(frozen=True, slots=True)
class Output:
    """An output that the manifest lists.

    Attributes:
        stage: Name of the stage that wrote it.
        path: Path relative to the run folder.
        sha256: Hexadecimal SHA-256.
        size: Size in bytes.
    """

    stage: str
    path: str
    sha256: str
    size: int


def load(folder: Path) -> dict[str, Entry]:
    """Read the finished stages of a run folder.

    Returns:
        The stages by name, in the order in which they finished. Empty without a manifest.

    Raises:
        RunFolderError: Another version of this package wrote the run folder in another format.
        DamagedFileError: The manifest is not a file that this package writes.
    """
    path = folder / layout.MANIFEST
    try:
        return _parse(path.read_text(encoding="utf-8"), folder)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedFileError(
            f"{path} is not a valid manifest ({type(error).__name__}: {error}). Restore the file, "
            "or delete it to run all stages again."
        ) from error


def save(folder: Path, stages: Mapping[str, Entry]) -> None:
    """Replace the manifest of a run folder atomically.

    Raises:
        RunFolderError: The disk is full or the folder is not writable.
    """
    text = verification.dump({"format": FORMAT, "stages": dict(stages)})
    atomic.write_text(folder / layout.MANIFEST, text)


def find(stages: Mapping[str, Entry], name: str) -> Output | None:
    """Return an output of the finished stages, or `None` if no stage wrote it.

    Args:
        stages: The finished stages, see `load`.
        name: Name of a table, or path of a file or folder relative to the run folder.
    """
    for stage, entry in stages.items():
        for path in (name, f"{name}.parquet"):
            if path in entry["outputs"]:
                record = entry["outputs"][path]
                return Output(stage, path, record["sha256"], record["bytes"])
    return None


def require(stages: Mapping[str, Entry], name: str) -> Output:
    """Return an output of the finished stages.

    Args:
        stages: The finished stages, see `load`.
        name: Name of a table, or path of a file or folder relative to the run folder.

    Raises:
        RunFolderError: No finished stage wrote it. The message names the stage to run.
    """
    output = find(stages, name)
    if output is None:
        stage = _WRITTEN_BY.get(PurePosixPath(name).parts[0])
        fix = f"Run the stage {stage!r} first." if stage else "Run the stage that writes it first."
        raise RunFolderError(
            f"The run folder has no {name!r}. Finished stages: {', '.join(stages) or 'none'}. {fix}"
        )
    return output


def require_unchanged(folder: Path, stage: str, entry: Entry, conditions: Conditions) -> None:
    """Raise an error if a stage was finished with other conditions.

    Args:
        folder: The run folder.
        stage: Name of the stage.
        entry: The finished stage.
        conditions: The conditions of the current call.

    Raises:
        StaleStageError: The conditions differ. The message lists each difference, and names the
            command that redoes the stage.
    """
    changes = [
        *_differences("setting", entry["settings"], conditions["settings"]),
        *_differences("input", entry["inputs"], conditions["inputs"], shorten=True),
        *_differences("template", entry["templates"], conditions["templates"], shorten=True),
    ]
    if entry["model"] != conditions["model"]:
        changes.append(f"the model was {entry['model']!r} and is now {conditions['model']!r}")
    if changes:
        raise StaleStageError(
            f"The stage {stage!r} was finished with other conditions: {'; '.join(changes)}. "
            "Restore them, use another run folder, or redo the stage with the new ones: "
            f"'{_redo_command(stage)} --run {folder} --force', with the changed settings."
        )


def _redo_command(stage: str) -> str:
    kind, _, part = stage.partition("/")
    # `score --force` would score the other models of the run as well.
    return f"mllm-msr compare --models {part}" if kind == "score" else f"mllm-msr {kind}"


def _parse(text: str, folder: Path) -> dict[str, Entry]:
    content = verification.load_json(text)
    found = int(content["format"])
    if found != FORMAT:
        version = "an older" if found < FORMAT else "a newer"
        raise RunFolderError(
            f"The run folder {folder} has format {found}, which {version} version of mllm-msr "
            f"wrote; this version reads format {FORMAT}. Start a new run in another folder, or "
            "read this one with the version that wrote it."
        )
    stages: dict[str, Entry] = verification.parse(text)["stages"]
    for name, entry in stages.items():
        absent = Entry.__required_keys__ - entry.keys()
        if absent:
            raise ValueError(f"stage {name!r} lacks {', '.join(sorted(absent))}")
    return stages


def _differences(
    kind: str, old: Mapping[str, object], new: Mapping[str, object], *, shorten: bool = False
) -> Iterator[str]:
    def shown(values: Mapping[str, object], key: str) -> str:
        if key not in values:
            # Stages record only the settings that they use and that differ from their defaults.
            return "the default or not used" if kind == "setting" else "absent"
        return f"{values[key]!s:.12}..." if shorten else repr(values[key])

    for key in sorted(old.keys() | new.keys()):
        # A setting whose value is None is not the same as a setting that is absent.
        if key not in old or key not in new or old[key] != new[key]:
            yield f"{kind} {key} was {shown(old, key)} and is now {shown(new, key)}"
