"""Progress: lines with rate and remaining time in the log, and bars on a terminal."""

from __future__ import annotations

import logging
import threading

import pytest

from mllm_msr.cli._progress import ProgressReporter, Task, clock


def test_a_line_has_count_share_rate_and_remaining_time() -> None:
    task = Task("infer", 1000, n_done=400, started=0.0)
    assert task.describe(20.0) == "infer 400/1000 40% 20/s ETA 00:30"
    task.n_done = 460
    # The rate is that of the last 30 seconds, not that of the cached responses before.
    assert task.describe(50.0) == "infer 460/1000 46% 2.0/s ETA 04:30"
    assert task.describe(80.0) == "infer 460/1000 46% running for 01:20"
    task.n_done = 463
    assert task.describe(110.0) == "infer 463/1000 46% 6.0/min ETA 1:29:30"


def test_a_task_without_a_total_shows_its_time() -> None:
    assert Task("evaluate", None, started=10.0).describe(75.0) == "evaluate running for 01:05"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "00:00"), (59.6, "01:00"), (3599, "59:59"), (86400, "24:00:00")]
)
def test_durations_are_clock_times(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_innermost_task_is_logged_in_intervals(caplog: pytest.LogCaptureFixture) -> None:
    logged = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("inner"):
                logged.set()

    logger = logging.getLogger("mllm_msr.cli._progress")
    handler = Notice()
    logger.addHandler(handler)
    try:
        with (
            caplog.at_level(logging.INFO, logger.name),
            ProgressReporter(bars=False, interval=0.01) as progress,
            progress("stage", None),
            progress("inner", 4) as advance,
        ):
            advance(2)
            assert logged.wait(20)
    finally:
        logger.removeHandler(handler)
    assert any(message.startswith("inner 2/4 50%") for message in caplog.messages)


def test_nothing_is_printed_without_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter(bars=False) as progress, progress("infer", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_a_bar_replaces_that_of_the_task_around_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with ProgressReporter(bars=True) as progress, progress("score/a", None):
        display = progress._display
        assert display is not None
        with progress("inner", 2) as advance:
            advance(1)
            assert [(t.description, t.visible) for t in display.tasks] == [
                ("score/a", False),
                ("inner", True),
            ]
            assert display.tasks[1].completed == 1
        assert [(t.description, t.visible) for t in display.tasks] == [("score/a", True)]
    assert progress._display is None
    capsys.readouterr()
