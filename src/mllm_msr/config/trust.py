"""Trust in the settings of run folders: secrets and prompts only go where the user has said.

A run folder may come from another person. Its `config.yaml` must not decide which host receives
prompts or an API key, which database stores events, or which Ray cluster runs code. Such a setting
is accepted only if the user has given the same value in this command, or in an earlier command for
the same folder on this machine. Hashes of accepted values are kept in the user's configuration
folder (`$XDG_CONFIG_HOME/mllm-msr/trusted-runs`, by default in `~/.config`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mllm_msr import registry
from mllm_msr.config.nested import lookup
from mllm_msr.config.settings import ImagesSettings, Settings
from mllm_msr.errors import RunFolderError, UsageError
from mllm_msr.storage import atomic, verification

logger = logging.getLogger(__name__)

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def require_trusted(
    folder: Path, settings: Settings, given: Mapping[str, Any], environment: Mapping[str, str]
) -> None:
    """Check that a run folder alone decides nothing that the user has not accepted.

    Args:
        folder: The run folder.
        settings: Settings that include those of the folder.
        given: Nested settings that the user has given in this command, without the folder's.
        environment: Environment variables of the process.

    Raises:
        UsageError: The folder sets a host, an environment variable with a key, a database or a
            cluster that the user has not accepted. The message contains the settings to repeat.
    """
    known = _read_trusted(folder)
    values = {
        key: value
        for key, value in _sensitive(settings, environment).items()
        if lookup(given, key) != value and known.get(key) != _hash(value)
    }
    if not values:
        return
    texts = [f"{key}={_shown(value)}" for key, value in values.items()]
    raise UsageError(
        f"The settings in {folder} come from a run that you have not started on this machine, and "
        f"they select where prompts, keys or events are sent: {', '.join(texts)}. If you trust "
        f"them, repeat them once in the command: {shlex.join(texts)}. Otherwise give other values."
    )


def remember(folder: Path, settings: Settings) -> None:
    """Record that the user accepts these settings for a run folder.

    Only logs a warning if the user's configuration folder cannot be written.
    """
    known = _read_trusted(folder)
    accepted = {key: _hash(value) for key, value in _sensitive(settings, None).items()}
    if accepted.items() <= known.items():
        return
    content = {"run": str(folder.resolve()), "settings": {**known, **accepted}}
    try:
        atomic.write_text(_record(folder), verification.dump(content))
    except RunFolderError as error:
        logger.warning("The settings of %s must be repeated in each command: %s", folder, error)


def _sensitive(settings: Settings, environment: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the settings that select where prompts, keys and events are sent, by name.

    Args:
        settings: The settings.
        environment: Environment variables, to leave out endpoints on this machine that get no
            key; None includes them.
    """
    found: dict[str, Any] = {}
    for section, backend, arguments in _backends(settings):
        found |= _endpoint(section, backend, arguments, environment)
    if settings.executor.name != "local" and settings.executor.address != "local":
        found["executor.address"] = settings.executor.address
    if settings.serve.state is not None:
        found["serve.state"] = settings.serve.state
    remote = sorted({"wandb", "mlflow", "trackio"}.intersection(settings.train.loggers))
    if remote:  # they send metrics with the user's own keys
        found["train.loggers"] = list(settings.train.loggers)
    hosts = settings.images.allowed_hosts
    if settings.images.download and hosts != ImagesSettings().allowed_hosts:
        found["images.allowed_hosts"] = list(hosts)
    return found


def has_endpoint(backend: str) -> bool:
    """Return whether a backend sends prompts to an address from its arguments."""
    return "url" in inspect.signature(registry.find("backends", backend)).parameters


def _backends(settings: Settings) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the section, the name and the arguments of every backend of a run."""
    for section, model in settings.models().items():
        yield section, model.backend, model.plugin_kwargs()
    for name in settings.baselines.plugin_kwargs():
        arguments = settings.baselines.arguments(name)
        if isinstance(options := arguments.get("options"), Mapping):
            default = inspect.signature(registry.find("baselines", name)).parameters.get("backend")
            if default is not None:
                backend = arguments.get("backend", default.default)
                yield f"baselines.{name}.options", backend, options


def _endpoint(
    section: str,
    backend: str,
    arguments: Mapping[str, Any],
    environment: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the address of a model's endpoint and the variable with its key, if it has one."""
    if not has_endpoint(backend):
        return {}
    parameters = inspect.signature(registry.find("backends", backend)).parameters
    url = arguments.get("url", parameters["url"].default)
    found = {f"{section}.url": url}
    variable = None
    if "key_variable" in parameters:
        default = parameters["key_variable"].default
        variable = arguments.get("key_variable", default)
        if variable != default:
            found[f"{section}.key_variable"] = variable
    sends_key = environment is None or bool(variable and environment.get(variable))
    is_local = urlsplit(str(url)).hostname in _LOOPBACK
    return found if sends_key or not is_local else {}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _record(folder: Path) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    name = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return Path(base) / "mllm-msr" / "trusted-runs" / f"{name[:32]}.json"


def _read_trusted(folder: Path) -> dict[str, str]:
    """Return the hashes of the accepted settings of a folder, by name."""
    path = _record(folder)
    try:
        content = verification.parse(path.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in content["settings"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        logger.warning("Ignoring the damaged record %s: %s", path, error)
        return {}
