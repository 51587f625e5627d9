"""Exceptions of this package, in one tree.

    MllmMsrError                  exit code 1
    ├── UsageError                exit code 2: the command or its settings are wrong
    │   ├── SettingsError         one or more settings, all reported at once
    │   ├── UnknownNameError      a dataset, backend, ... that does not exist
    │   └── MissingExtraError     an optional dependency that is not installed
    ├── DataError                 a file, a column or a value that cannot be used
    │   └── ImageError            an image that cannot be opened safely
    ├── RunFolderError            the run folder itself
    │   ├── RunLockedError        another process has locked it
    │   ├── StaleStageError       a stage that was finished with other settings
    │   └── DamagedFileError      a file that differs from what was written
    ├── BackendError              the model or the endpoint
    │   ├── CapabilityError       it does not support what was requested
    │   ├── AnswerTokenError      yes / no are not one token each
    │   └── PromptTooLongError    a prompt that does not fit even after trimming
    └── TrainingError             training cannot continue
        └── NonFiniteLossError    the loss is NaN or infinite

A message states the problem first, then the value received and how to fix it, in natural sentences:
"Unknown dataset 'steam'. Did you mean ...? Available: demo, files, ...".
"""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

# Import names of the packages that each extra adds. An extra that includes others is after them.
EXTRAS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "baselines": ("scipy",),
        "report": ("matplotlib",),
        "models": ("torch", "transformers", "peft"),
        "train": ("lightning", "tensorboard"),
        "deepspeed": ("deepspeed",),
        "quantize": ("bitsandbytes", "accelerate"),
        "serve": ("faiss", "fastapi", "prometheus_client", "sqlalchemy", "uvicorn"),
        "excel": ("fastexcel",),
        "postgres": ("psycopg",),
        "tune": ("optuna",),
        "ray": ("ray",),
        "mcp": ("mcp",),
        "otel": (
            *("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
            "opentelemetry.instrumentation.fastapi",
        ),
        "wandb": ("wandb",),
        "mlflow": ("mlflow",),
        "trackio": ("trackio",),
    }
)


class MllmMsrError(Exception):
    """Base of all errors of this package.

    Args:
        message: One or more sentences: the problem, the value received, the fix.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class UsageError(MllmMsrError):
    """The command line or its settings are wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """Settings that cannot be used; carries every problem found.

    Args:
        problems: One sentence for each problem, each naming the setting, its value and the fix.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} settings cannot be used:{lines}")


class UnknownNameError(UsageError):
    """A name that the registry does not know."""


# Extras whose packages need older versions than `constraints.txt` has: of cachetools and of Pillow.
_WITHOUT_CONSTRAINTS: Final = frozenset({"mlflow", "trackio"})


def install_command(extra: str = "") -> str:
    """Return the command that installs this package with an extra.

    Args:
        extra: Name of the extra; "" for none.

    Returns:
        A command for the checkout that this package was installed from, with its constraints where
        they allow the extra, or else for the package index.
    """
    suffix = f"[{extra}]" if extra else ""
    root = Path(__file__).parents[2]
    if not (root / "constraints.txt").is_file():
        return f"pip install {shlex.quote(f'mllm-msr{suffix}')}"
    folder = "." if root == Path.cwd() else str(root)
    constraints = shlex.quote(str(Path(folder) / "constraints.txt"))
    option = "" if extra in _WITHOUT_CONSTRAINTS else f"-c {constraints} "
    return f"pip install {option}-e {shlex.quote(folder + suffix)}"


class MissingExtraError(UsageError):
    """An optional dependency is not installed.

    Args:
        package: Import name of the missing package.
        extra: Extra of this project that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"The package {package!r} is not installed; it is part of mllm-msr[{extra}]. "
            f"Run: {install_command(extra)}"
        )


def require_extra(extra: str) -> None:
    """Check that an extra is installed, before work that would need it in the end.

    Args:
        extra: A name in `EXTRAS`.

    Raises:
        MissingExtraError: One of its packages is not installed.
    """
    for package in EXTRAS[extra]:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)


@contextlib.contextmanager
def convert_missing_extras() -> Iterator[None]:
    """Convert imports that fail because an extra is not installed; use it as `with` block.

    Raises:
        MissingExtraError: A package of `EXTRAS` is not installed. Other failures are not changed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        for extra, packages in EXTRAS.items():
            if error.name in packages:
                raise MissingExtraError(error.name, extra) from error
        raise


class DataError(MllmMsrError):
    """A file, a column or a value that cannot be used."""


class ImageError(DataError):
    """An image that cannot be opened safely."""


class RunFolderError(MllmMsrError):
    """The run folder cannot be used as it is."""


class RunLockedError(RunFolderError):
    """Another process has locked the run folder."""


class StaleStageError(RunFolderError):
    """A stage was finished with other settings or inputs."""


class DamagedFileError(RunFolderError):
    """A file differs from what the manifest recorded."""


class BackendError(MllmMsrError):
    """A model or an endpoint failed."""


class CapabilityError(BackendError):
    """A backend does not support what was requested."""


class AnswerTokenError(BackendError):
    """An answer word is not exactly one token after the rendered prompt."""


class PromptTooLongError(BackendError):
    """A prompt exceeds its token budget, and its trimmable parts are empty already."""


class TrainingError(MllmMsrError):
    """Training cannot continue."""


class NonFiniteLossError(TrainingError):
    """The loss or a weight became NaN or infinite."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; the name of its class if there is no message.

    >>> first_line(ValueError("bad value")), first_line(KeyError())
    ('bad value', 'KeyError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__
