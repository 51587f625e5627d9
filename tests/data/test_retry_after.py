"""The Retry-After header: numbers, dates, and values that are neither."""

from __future__ import annotations

import email.utils
import time

import pytest

from mllm_msr.data.retry_after import retry_after


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", 0.0), ("", 0.0)]
)
def test_numbers_are_seconds_and_other_texts_are_ignored(value: str, seconds: float) -> None:
    assert retry_after({"Retry-After": value}) == seconds
    assert retry_after({}) == 0.0


def test_dates_are_times_from_now_and_the_past_is_zero() -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < retry_after({"Retry-After": in_a_minute}) <= 60
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
