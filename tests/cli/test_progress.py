"""Progress: lines with rate and remaining time in the log, and bars on a terminal."""

from __future__ import annotations

import logging
import threading

import pytest

from mllm_msr.cli._progress import ProgressReporter, Task, clock


def test_a_line_has_count_share_rate_and_remaining_time() -> None:
    task = Task("infer", 1000, started=0.0)
    task.advance(400, 20.0)
    # A rate of the cached responses and resumed steps would promise too much.
    assert task.describe(30.0) == "infer 400/1000 40% running for 00:30"
    task.advance(60, 50.0)
    assert task.describe(60.0) == "infer 460/1000 46% 2.0/s ETA 04:30"
    task.advance(440, 70.0)
    assert task.describe(90.0) == "infer 900/1000 90% 10/s ETA 00:10"


def test_there_is_no_estimate_before_some_steps_have_finished() -> None:
    task = Task("infer", 100, started=0.0)
    assert task.describe(30.0) == "infer 0/100 0% running for 00:30"
    task.advance(40, 50.0)  # resumed, after the model was loaded
    assert task.describe(60.0) == "infer 40/100 40% running for 01:00"
    task.advance(2, 110.0)
    assert task.describe(120.0) == "infer 42/100 42% running for 02:00"
    task.advance(1, 140.0)
    assert task.describe(150.0) == "infer 43/100 43% 2.0/min ETA 28:30"


def test_the_remaining_time_of_regular_steps_only_decreases() -> None:
    """Advance batches of 16 steps every 50 seconds, with a line every 30 seconds."""
    task = Task("infer", 160, n_done=0, started=0.0)
    remaining = []
    for second in range(10, 500, 10):
        if second % 50 == 0:
            task.advance(16, float(second))
        if second % 30 == 0 and "ETA" in (line := task.describe(float(second))):
            minutes, seconds = line.split()[-1].split(":")
            remaining.append(60 * int(minutes) + int(seconds))
    assert remaining == sorted(remaining, reverse=True)
    # The rate is right from the first estimate on, so that the time is that of the open batches.
    assert set(remaining) == set(range(50, 401, 50))


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
