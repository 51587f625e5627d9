"""The load test's own instruments."""

from __future__ import annotations

import math
import os
import sys
import time

import pytest
from benchmarks.serving import _processor_seconds


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it in /proc")
def test_the_processor_time_of_a_process_is_what_it_computed() -> None:
    before, own = _processor_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    assert _processor_seconds(os.getpid()) - before == pytest.approx(0.1, abs=0.05)


def test_nobody_tells_the_time_of_a_process_that_is_not_there() -> None:
    assert math.isnan(_processor_seconds(0))
