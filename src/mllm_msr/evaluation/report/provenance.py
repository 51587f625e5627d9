"""Origin of a report: version, time, machine, command and changed settings.

Only these facts differ between two reports of the same results, so they are passed to the report as
one record, which tests and reproducible builds can fix.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

# Packages whose versions change results.
_PACKAGES: Final = ("torch", "transformers", "polars", "numpy")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a report.

    Attributes:
        version: Version of this package.
        created: Time of the report, ISO 8601 in UTC; empty if unknown.
        machine: Operating system and version of Python. The name of the machine is left out,
            because reports are shared.
        packages: Versions of other packages by name.
        command: Command that repeats the run; empty if unknown.
        run: Name of the run folder, used in commands that the report suggests.
        changes: Settings that differ from those of the preset, by dotted key.
    """

    version: str = ""
    created: str = ""
    machine: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    run: str = "RUN"
    changes: Mapping[str, Any] = field(default_factory=dict)


def describe_machine() -> str:
    """Return the operating system, the architecture and the version of Python."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def describe_packages() -> dict[str, str]:
    """Return the versions of the installed packages that change results, by name."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_time(environment: Mapping[str, str] = os.environ) -> str:
    """Return the current time in UTC, to the minute.

    The variable `SOURCE_DATE_EPOCH` replaces it, as in other tools for reproducible builds.

    >>> describe_time({"SOURCE_DATE_EPOCH": "0"})
    '1970-01-01 00:00 UTC'
    """
    epoch = environment.get("SOURCE_DATE_EPOCH", "")
    time = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    return time.strftime("%Y-%m-%d %H:%M UTC")
