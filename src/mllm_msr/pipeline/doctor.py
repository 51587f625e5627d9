"""What is installed, what is broken, and how to mend it: the checks of `mllm-msr doctor`.

Each check ends in a finding with a state and, where something is amiss, the command that mends
it. Packages are imported in a process of their own, since a broken one may take its importer
along. The one known to break others is torchvision: built for another torch, it cannot be
imported, and then Transformers' own image processors cannot either.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mllm_msr import demo_model
from mllm_msr.errors import MllmMsrError
from mllm_msr.interfaces import Backend

State = Literal["ok", "absent", "broken"]

_OLDEST_PYTHON: Final = (3, 11)
_TRANSFORMERS: Final = ((5, 19), (6, 0))
_ENOUGH_DISK: Final = 2 * 2**30
_IMPORT_SECONDS: Final = 120

# Import names by what they are needed for; "" is the core.
_PACKAGES: Final[Mapping[str, Sequence[str]]] = {
    "": ("torch", "transformers", "polars", "pyarrow", "PIL", "httpx2", "safetensors"),
    "train": ("lightning", "peft", "tensorboard"),
    "deepspeed": ("deepspeed",),
    "quantize": ("bitsandbytes", "accelerate"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: What was looked at.
        state: "ok", "absent" (an extra that is not installed) or "broken".
        detail: What was found, in a few words.
        remedy: What mends it, where something is amiss.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(*, deep: bool = True) -> Iterator[Finding]:
    """Check this environment.

    Args:
        deep: Import every package that is there (some seconds each); without it they are only
            looked for.

    Yields:
        Findings, as they are made.
    """
    yield check_python(sys.version_info[:2])
    for extra, names in _PACKAGES.items():
        for name in names:
            yield check_package(name, extra=extra, deep=deep)
    yield check_transformers(_version("transformers") or "0")
    yield check_torchvision(deep=deep)
    yield check_weights(demo_model.weights_folder())
    yield check_disk(Path.cwd())


def check_python(version: tuple[int, int]) -> Finding:
    """Whether the interpreter is new enough."""
    found = ".".join(map(str, version))
    if version >= _OLDEST_PYTHON:
        return Finding("python", "ok", found)
    return Finding("python", "broken", found, "install Python 3.11 or newer")


def check_package(name: str, *, extra: str = "", deep: bool = True) -> Finding:
    """Whether a package is there and can be imported.

    Args:
        name: Import name.
        extra: Extra of this project that brings it; "" for the core, whose absence is a fault.
        deep: Import it, in a process of its own.
    """
    wanted = f"mllm-msr[{extra}]" if extra else "mllm-msr"
    if importlib.util.find_spec(name) is None:
        state: State = "absent" if extra else "broken"
        return Finding(name, state, "not installed", f"pip install '{wanted}'")
    reason = _import_fault(name) if deep else ""
    if reason:
        remedy = f"pip install --force-reinstall --no-deps {name}, or '{wanted}' anew"
        return Finding(name, "broken", f"cannot be imported: {reason}", remedy)
    return Finding(name, "ok", _version(name) or "installed")


def check_transformers(version: str) -> Finding:
    """Whether Transformers' version is one that this project is tested with."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest, too_new = _TRANSFORMERS
    if oldest <= numbers < too_new:
        return Finding("transformers version", "ok", version)
    return Finding("transformers version", "broken", version, "pip install 'transformers>=5.19,<6'")


def check_torchvision(*, deep: bool = True) -> Finding:
    """Whether torchvision, which this project does without, stands in Transformers' way."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "ok", "not installed, and not needed")
    reason = _import_fault("torchvision") if deep else ""
    if not reason:
        return Finding("torchvision", "ok", f"{_version('torchvision')}, not needed")
    detail = f"cannot be imported, and breaks image processors of Transformers: {reason}"
    return Finding("torchvision", "broken", detail, "pip uninstall -y torchvision")


def check_weights(folder: Path) -> Finding:
    """Whether the packaged model's files are complete."""
    wanted = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
    missing = [name for name in wanted if not (folder / name).is_file()]
    if not missing:
        return Finding("packaged model", "ok", str(folder))
    remedy = "install the package anew, or use another model.backend"
    return Finding("packaged model", "broken", f"without {', '.join(missing)}", remedy)


def check_disk(folder: Path, *, needed: int = _ENOUGH_DISK) -> Finding:
    """Whether there is room for a run."""
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:,.1f} GiB free in {folder}"
    if free >= needed:
        return Finding("disk", "ok", detail)
    return Finding("disk", "broken", detail, f"make room, {needed / 2**30:,.0f} GiB is little")


def check_backend(name: str, make: Callable[[], Backend]) -> Finding:
    """Whether the model of some settings can be reached, and what it can do.

    Args:
        name: Which settings ("model", "infer.model").
        make: Makes the backend; closed here.
    """
    try:
        backend = make()
        try:
            able = backend.capabilities
            fingerprint = backend.fingerprint
        finally:
            backend.close()
    except MllmMsrError as error:
        return Finding(name, "broken", f"received {error.received}", error.remedy)
    skills = {"images": able.images, "yes/no scores": able.choices, "adapters": able.adapters}
    listed = ", ".join(f"{skill} {'yes' if has else 'no'}" for skill, has in skills.items())
    return Finding(name, "ok", f"{fingerprint} ({listed})")


def _import_fault(name: str) -> str:
    """The last line of what importing a package says, empty where it works."""
    command = [sys.executable, "-c", f"import {name}"]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, names from the table above
            command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_IMPORT_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version({"PIL": "pillow"}.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None
