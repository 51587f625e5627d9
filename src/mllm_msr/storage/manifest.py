"""What a run folder claims: which stages are finished, under what conditions, with what outputs.

`manifest.json` is meant to be read by people too. `storage/run_folder.py` writes it; nothing in it is
believed without comparing hashes. It also holds what the report says of each stage's cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final, TypedDict, get_type_hints

from mllm_msr.errors import DamagedFileError, RunFolderError, StaleStageError
from mllm_msr.storage import atomic
from mllm_msr.storage.layout import MANIFEST

_FORMAT: Final = 1

# The stage that makes an output, by the first part of the output's name, for the error that
# says what to run.
_PRODUCERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dataset": "prepare",
        "interactions": "prepare",
        "items": "prepare",
        "splits": "prepare",
        "candidates": "prepare",
        "summaries": "summarize",
        "preferences": "infer",
        "adapter": "train",
        "model": "train",
        "scores": "score",
        "ranks": "score",
        "top": "score",
        "cases": "evaluate",
        "details": "evaluate",
        "metrics": "evaluate",
        "metrics_per_user": "evaluate",
        "report": "report",
    }
)


class Record(TypedDict):
    """One output: SHA-256 (hexadecimal) and size of a file, or of all files of a folder."""

    sha256: str
    bytes: int


class Conditions(TypedDict):
    """What a stage's outputs depend on; other conditions make finished work stale.

    `inputs` and `templates` map names to hashes; `model` is the fingerprint of the model asked.
    """

    settings: dict[str, Any]
    inputs: dict[str, str]
    templates: dict[str, str]
    model: str | None


class Entry(Conditions):
    """A finished stage: its conditions, what it counted, how long it took, what it made."""

    counts: dict[str, float]
    seconds: float
    outputs: dict[str, Record]


@dataclass(frozen=True, slots=True)
class Output:
    """An output as the manifest knows it.

    Attributes:
        stage: Name of the stage that made it.
        path: Path relative to the run folder.
        sha256: Hexadecimal SHA-256.
        size: In bytes.
    """

    stage: str
    path: str
    sha256: str
    size: int


def load(folder: Path) -> dict[str, Entry]:
    """Read the finished stages, in the order in which they finished; none without a manifest.

    Raises:
        DamagedFileError: The manifest is not what this package writes.
    """
    path = folder / MANIFEST
    try:
        return _stages(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            needed=f"a manifest of format {_FORMAT}",
            received=f"{path}, which is not one ({error})",
            remedy="restore it, or remove it to do all stages again",
        ) from error


def save(folder: Path, stages: Mapping[str, Entry]) -> None:
    """Replace the manifest at once.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    content = {"format": _FORMAT, "stages": dict(stages)}
    atomic.write_text(folder / MANIFEST, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def find(stages: Mapping[str, Entry], name: str) -> Output | None:
    """Look an output up.

    Args:
        stages: As `load` returns them.
        name: A table's name without its ending, or a file's or folder's path in the run.
    """
    for stage, entry in stages.items():
        for path in (name, f"{name}.parquet"):
            if path in entry["outputs"]:
                record = entry["outputs"][path]
                return Output(stage, path, record["sha256"], record["bytes"])
    return None


def require(stages: Mapping[str, Entry], name: str) -> Output:
    """Look an output up that must be there.

    Raises:
        RunFolderError: No finished stage has made it; the message names the stage to run.
    """
    output = find(stages, name)
    if output is None:
        stage = _PRODUCERS.get(PurePosixPath(name).parts[0].partition(".")[0])
        raise RunFolderError(
            needed=f"{name!r}",
            received=f"a run folder with {', '.join(stages) or 'no stage'} finished",
            remedy=f"run the stage {stage!r} first" if stage else "run the stage that makes it",
        )
    return output


def refuse_if_stale(stage: str, entry: Entry, conditions: Conditions) -> None:
    """Compare the conditions of finished work with those asked for now.

    Raises:
        StaleStageError: They differ; the message names each difference with both values.
    """
    changes = list(_changes(entry, conditions))
    if changes:
        raise StaleStageError(
            needed=f"stage {stage!r} as it was finished",
            received=f"other conditions ({'; '.join(changes)})",
            remedy="go back to the old ones, take another run folder, or redo it with --force",
        )


def _stages(content: dict[str, Any]) -> dict[str, Entry]:
    if content["format"] != _FORMAT:
        raise ValueError(f"its format is {content['format']!r}")
    stages: dict[str, Entry] = content["stages"]
    for name, entry in stages.items():
        absent = get_type_hints(Entry).keys() - entry.keys()
        if absent:
            raise ValueError(f"stage {name!r} lacks {', '.join(sorted(absent))}")
    return stages


def _changes(old: Conditions, new: Conditions) -> Iterator[str]:
    yield from _differences("setting", old["settings"], new["settings"])
    yield from _differences("input", old["inputs"], new["inputs"], shorten=True)
    yield from _differences("template", old["templates"], new["templates"], shorten=True)
    yield from _differences("", {"model": old["model"]}, {"model": new["model"]})


def _differences(
    kind: str, old: Mapping[str, object], new: Mapping[str, object], *, shorten: bool = False
) -> Iterator[str]:
    def shown(values: Mapping[str, object], key: str) -> str:
        if key not in values:
            return "absent"
        return f"{values[key]!s:.12}..." if shorten else repr(values[key])

    for key in sorted(old.keys() | new.keys()):
        # Presence counts: a setting of None is not the same as no such setting.
        if key not in old or key not in new or old[key] != new[key]:
            yield f"{kind} {key} was {shown(old, key)}, is {shown(new, key)}".strip()
