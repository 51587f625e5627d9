"""Checks of the installation and of configured models: `mllm-msr doctor`.

Each check returns a finding with a state and, if something is wrong, the fix. Packages are imported
in a separate process, because a broken package can crash the process that imports it. torchvision
is known to break Transformers: a build for another torch version cannot be imported, and then the
image processors of Transformers cannot be imported either.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mllm_msr import demo_model
from mllm_msr.config.settings import Settings
from mllm_msr.errors import EXTRAS, BackendError, MllmMsrError, install_command, require_extra
from mllm_msr.interfaces import Backend
from mllm_msr.models.small import sources
from mllm_msr.pipeline.backends import backend_class, open_for_check

State = Literal["ok", "absent", "broken"]

_OLDEST_PYTHON: Final = (3, 11)
# The tested versions of Transformers: at least the first, below the second.
_TRANSFORMERS: Final = ((5, 21), (6, 0))
_NEED_TORCHVISION: Final = "LFM2-VL, Llama 4, Mistral 3 and Pixtral"
_MIN_DISK_BYTES: Final = 2 * 2**30
_IMPORT_TIMEOUT: Final = 120

# Import names of required packages, in which a broken build or an old version is not unusual.
_REQUIRED: Final = ("polars", "pyarrow", "PIL", "httpx2", "safetensors")

# Names in the package index that differ from the import names.
_DISTRIBUTIONS: Final[Mapping[str, str]] = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.instrumentation.fastapi": "opentelemetry-instrumentation-fastapi",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        name: What was checked.
        state: "ok", "absent" (an optional package that is not installed) or "broken".
        detail: What was found, in a few words.
        fix: How to fix it; empty if nothing is wrong or `detail` states the fix.
    """

    name: str
    state: State
    detail: str
    fix: str = ""


def examine(*, deep: bool = True) -> Iterator[Finding]:
    """Check this environment.

    Args:
        deep: Import every installed package, which takes several seconds each. False only checks
            that the packages are installed.

    Yields:
        Findings, as soon as they are available.
    """
    yield check_python(sys.version_info[:2])
    for extra, names in {"": _REQUIRED, **EXTRAS}.items():
        for name in names:
            yield check_package(name, extra=extra, deep=deep)
    if version := _version("transformers"):
        yield check_transformers(version)
    yield check_torchvision(deep=deep)
    yield check_weights(demo_model.weights_folder())
    yield check_small_model()
    yield check_disk(Path.cwd())


def check_python(version: tuple[int, int]) -> Finding:
    """Check that the Python version is supported."""
    text = ".".join(map(str, version))
    if version >= _OLDEST_PYTHON:
        return Finding("python", "ok", text)
    return Finding("python", "broken", text, "install Python 3.11 or newer")


def check_package(name: str, *, extra: str = "", deep: bool = True) -> Finding:
    """Check that a package is installed and can be imported.

    Args:
        name: Import name.
        extra: Extra of this project that requires it; "" for a required package.
        deep: Import it, in a separate process.
    """
    label = f"{name} ({extra})" if extra else name
    if not _is_installed(name):
        state: State = "absent" if extra else "broken"
        return Finding(label, state, "not installed", install_command(extra))
    error = _import_error(name) if deep else ""
    if error:
        distribution = _DISTRIBUTIONS.get(name, name)
        fix = f"pip install --force-reinstall --no-deps {distribution}, or {install_command(extra)}"
        return Finding(label, "broken", f"cannot be imported: {error}", fix)
    return Finding(label, "ok", _version(name) or "installed")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that contains it
        return False


def check_transformers(version: str) -> Finding:
    """Check that the version of Transformers is one that this project is tested with."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest, too_new = _TRANSFORMERS
    if oldest <= numbers < too_new:
        return Finding("transformers version", "ok", version)
    return Finding("transformers version", "broken", version, "pip install 'transformers>=5.21,<6'")


def check_torchvision(*, deep: bool = True) -> Finding:
    """Check that torchvision, which few models need, does not break Transformers."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("torchvision", "ok", f"not installed, only needed for {_NEED_TORCHVISION}")
    error = _import_error("torchvision") if deep else ""
    if not error:
        return Finding("torchvision", "ok", _version("torchvision") or "installed")
    detail = f"cannot be imported, which breaks image processors of Transformers: {error}"
    return Finding("torchvision", "broken", detail, "pip uninstall -y torchvision")


def check_weights(folder: Path) -> Finding:
    """Check that all files of the demo model exist."""
    expected = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")
    missing = [name for name in expected if not (folder / name).is_file()]
    if not missing:
        return Finding("demo model", "ok", str(folder))
    fix = "reinstall mllm-msr, or set another model.backend"
    return Finding("demo model", "broken", f"missing {', '.join(missing)} in {folder}", fix)


def check_small_model() -> Finding:
    """Check that the packages are installed from which the backend `smollm` makes its model."""
    if missing := sources.missing_packages():
        detail = f"not installed: {', '.join(missing)}"
        return Finding("smollm", "absent", detail, sources.installing_command())
    return Finding("smollm", "ok", "installed, for model.backend=smollm")


def check_disk(folder: Path, *, min_bytes: int = _MIN_DISK_BYTES) -> Finding:
    """Check that the disk has enough space for a run."""
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**30:,.1f} GiB free in {folder}"
    if free >= min_bytes:
        return Finding("disk", "ok", detail)
    return Finding("disk", "broken", detail, f"free at least {min_bytes / 2**30:,.0f} GiB")


def require_extras(settings: Settings, *, trains: bool) -> None:
    """Check before a run that the extras are installed that its models and its training need.

    Args:
        settings: Settings of the run.
        trains: Whether the stage "train" will run, if it is enabled.

    Raises:
        MissingExtraError: A package is not installed.
    """
    has_weights = [
        backend_class(model)
        for model in settings.models().values()
        if backend_class(model).trainable_checkpoint(**model.plugin_kwargs()) is not None
    ]
    if has_weights and trains and settings.train.enabled:
        require_extra("train")  # it includes `models`
    if any(kind.is_local for kind in has_weights):
        require_extra("models")


def require_available(settings: Settings) -> None:
    """Raise `BackendError` if a model behind an endpoint does not answer within seconds."""
    for name, model in settings.models().items():
        if backend_class(model).is_local:
            continue
        finding = check_backend(name, functools.partial(open_for_check, model))
        if finding.state == "broken":
            raise BackendError(
                f"The model of the setting {name!r} is not available. {finding.detail}"
            )


def check_backend(name: str, make: Callable[[], Backend]) -> Finding:
    """Check that a configured model is available, and report its capabilities.

    Args:
        name: Setting of the model ("model", "infer.model").
        make: Creates the backend, which is closed here.
    """
    try:
        backend = make()
        try:
            capabilities = backend.capabilities
            fingerprint = backend.fingerprint
        finally:
            backend.close()
    except MllmMsrError as error:
        return Finding(name, "broken", str(error))
    supported = {
        "images": capabilities.images,
        "yes/no scores": capabilities.choices,
        "adapters": capabilities.adapters,
    }
    listed = ", ".join(f"{feature} {'yes' if has else 'no'}" for feature, has in supported.items())
    detail = f"{fingerprint} ({listed})"
    if capabilities.scoring:
        detail += f", scores: {capabilities.scoring}"
    return Finding(name, "ok", detail)


def _import_error(name: str) -> str:
    """Import a package in a separate process and return the last line of its error, if any."""
    command = [sys.executable, "-c", f"import {name}"]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, names from the table above
            command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no result after {_IMPORT_TIMEOUT} seconds"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with exit code {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None
