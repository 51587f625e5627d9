"""Fixtures that call commands in this process, and a finished run with the mock backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import worlds
from mllm_msr.cli import app

# Returns a result with `exit_code`, `stdout`, `output` and `exception`.
Invoke = Callable[..., Any]


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Return a function that calls `mllm-msr` and returns the result, including exceptions."""

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the settings of a small run with the mock backend."""
    return worlds.settings(worlds.write_files(tmp_path_factory.mktemp("cli") / "data"))


@pytest.fixture(scope="session")
def finished(invoke: Invoke, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = invoke("run", "--run", folder, *settings)
    if result.exception is not None:
        raise result.exception
    return folder


@pytest.fixture
def fail(invoke: Invoke) -> Callable[..., None]:
    """Return a function that calls `mllm-msr` with wrong arguments and raises its error."""

    def call(*arguments: object) -> None:
        result = invoke(*arguments)
        assert isinstance(result.exception, Exception), result.output
        raise result.exception

    return call
