"""Tests for the logger of trackio, with a stand-in for the package that records its calls."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Replace trackio, and record the calls of its functions."""
    seen: list[tuple[str, dict[str, Any]]] = []
    package = ModuleType("trackio")

    def init(
        project: str, name: str | None = None, config: Any = None, resume: str = "never"
    ) -> None:
        sys.stdout.write("* Created new run\n")
        seen.append(
            ("init", {"project": project, "name": name, "resume": resume, "config": config})
        )

    def log(metrics: dict[str, Any], step: int | None = None) -> None:
        seen.append(("log", {"metrics": metrics, "step": step}))

    package.init, package.log = init, log  # type: ignore[attr-defined]
    package.finish = lambda: seen.append(("finish", {}))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", package)
    name = "mllm_msr.ranker.training.trackio_logger"
    sys.modules.pop(name, None)
    yield seen
    sys.modules.pop(name, None)


def make() -> Any:
    module = importlib.import_module("mllm_msr.ranker.training.trackio_logger")
    return module.TrackioLogger(project="mllm-msr", run="shop")


def test_run_starts_with_the_first_value_and_is_continued(calls: list[Any]) -> None:
    logger = make()
    assert (logger.name, logger.version, calls) == ("mllm-msr", "shop", [])
    logger.log_metrics({"train/loss": 0.5}, step=1)
    logger.log_metrics({"train/loss": 0.4}, step=2)
    logger.finalize("success")
    logger.finalize("success")
    start = {"project": "mllm-msr", "name": "shop", "resume": "allow", "config": None}
    assert calls == [
        ("init", start),
        ("log", {"metrics": {"train/loss": 0.5}, "step": 1}),
        ("log", {"metrics": {"train/loss": 0.4}, "step": 2}),
        ("finish", {}),
    ]


def test_messages_of_trackio_are_no_results(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    make().log_metrics({"train/loss": 0.5}, step=1)
    assert capsys.readouterr() == ("", "* Created new run\n")


def test_settings_are_the_configuration_of_the_run(calls: list[Any]) -> None:
    make().log_hyperparams({"rank": 8})
    assert [(name, given.get("config")) for name, given in calls] == [("init", {"rank": 8})]
