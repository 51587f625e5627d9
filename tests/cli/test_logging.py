"""Messages: what is shown on stderr, and what is written to `run.log`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllm_msr.cli import _logging
from mllm_msr.errors import DataError, UsageError


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the handlers and levels after each test."""
    root, package = logging.getLogger(), logging.getLogger("mllm_msr")
    handlers, level = list(root.handlers), package.level
    yield
    root.handlers[:] = handlers
    package.setLevel(level)


def log_everything() -> None:
    """Log a message of each kind."""
    logging.getLogger("mllm_msr.data").info("details")
    logging.getLogger("mllm_msr.data").warning("problem")
    logging.getLogger("other").info("details of another package")
    logging.getLogger(_logging.STAGES).info("infer started")
    logging.getLogger(_logging.PROGRESS).info("infer 1/2")
    logging.getLogger("mllm_msr.data").error("failure")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["WARNING problem", "infer started", "infer 1/2", "ERROR failure"]),
        ({"quiet": True}, ["ERROR failure"]),
        (
            {"verbose": True},
            ["details", "WARNING problem", "infer started", "infer 1/2", "ERROR failure"],
        ),
    ],
    ids=["default", "quiet", "verbose"],
)
def test_the_options_select_the_messages(
    options: dict[str, bool],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    _logging.configure(**options)
    with _logging.log_to(tmp_path / "run.log"):
        capsys.readouterr()
        log_everything()
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] if line[:1].isdigit() else line for line in lines] == expected
    assert _logging.is_quiet() == ("quiet" in options)
    text = (tmp_path / "run.log").read_text()
    for message in ("INFO details\n", "WARNING problem", "infer started", "infer 1/2", "failure"):
        assert message in text
    assert "another package" not in text


def test_lines_of_progress_are_not_printed_beside_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _logging.configure()
    logging.getLogger("mllm_msr").setLevel(logging.INFO)
    log_everything()
    printed = capsys.readouterr().err
    assert "infer started" in printed
    assert "infer 1/2" not in printed


def test_verbose_and_quiet_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="Both --verbose and --quiet are given"):
        _logging.configure(verbose=True, quiet=True)


def test_the_log_is_appended_and_has_the_command_and_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.log"
    monkeypatch.setattr("sys.argv", ["mllm-msr", "run", "--run", "my run"])
    for error in (DataError("No file."), SystemExit(143), ValueError("odd")):
        with pytest.raises(type(error)), _logging.log_to(path):
            raise error
    lines = path.read_text().splitlines()
    assert [line.split(" ", 3)[2] for line in lines] == ["INFO", "ERROR"] * 3
    assert lines[0].endswith(": run --run 'my run'")
    assert lines[1].endswith("failed: No file.")
    assert lines[3].endswith("stopped with exit code 143")
    assert lines[5].endswith("failed: ValueError: odd")


def test_a_log_that_cannot_be_written_does_not_stop_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _logging.log_to(tmp_path / "nowhere" / "run.log"):
        logging.getLogger("mllm_msr").warning("goes on")
    with _logging.log_to(Path("/dev/full")):
        logging.getLogger("mllm_msr").info("lost")
    assert "Logging error" not in capsys.readouterr().err
