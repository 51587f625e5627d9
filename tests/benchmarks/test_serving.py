"""Helpers of the benchmark `serving`."""

from __future__ import annotations

import math
import os
import sys
import time

import pytest

from benchmarks.serving import _processor_seconds


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processor_seconds_of_a_process_are_read() -> None:
    before, start = _processor_seconds(os.getpid()), time.process_time()
    while time.process_time() - start < 0.1:
        pass
    assert _processor_seconds(os.getpid()) - before == pytest.approx(0.1, abs=0.05)


def test_processor_seconds_of_a_missing_process_are_unknown() -> None:
    assert math.isnan(_processor_seconds(0))
