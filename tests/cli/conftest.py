"""Calls of the command line in this process, and a finished run with the mock backend."""

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
    """Call `mllm-msr` with some arguments; exceptions are in the result."""

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a small run with the mock backend."""
    return worlds.settings(worlds.write_files(tmp_path_factory.mktemp("cli") / "data"))


@pytest.fixture(scope="session")
def finished(invoke: Invoke, settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all stages; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    result = invoke("run", "--run", folder, *settings)
    if result.exception is not None:
        raise result.exception
    return folder


@pytest.fixture
def fail(invoke: Invoke) -> Callable[..., None]:
    """Call `mllm-msr` with arguments that it rejects, and raise its error."""

    def call(*arguments: object) -> None:
        result = invoke(*arguments)
        assert isinstance(result.exception, Exception), result.output
        raise result.exception

    return call
