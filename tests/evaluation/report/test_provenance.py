"""Origin of a report: no private facts, and a time that can be fixed."""

from __future__ import annotations

import platform
import re
import socket

import mllm_msr
from mllm_msr.evaluation.report import provenance


def test_the_machine_is_described_without_its_name():
    described = provenance.describe_machine()
    assert platform.system() in described
    assert re.search(r"^\w+ \w+, Python 3\.", described)
    assert socket.gethostname() not in described


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "mllm-msr-absent"))
    assert list(provenance.describe_packages()) == ["numpy"]


def test_the_time_can_be_fixed():
    assert provenance.describe_time({"SOURCE_DATE_EPOCH": "86400"}) == "1970-01-02 00:00 UTC"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", provenance.describe_time({}))
    assert provenance.describe_time({"SOURCE_DATE_EPOCH": "no number"}) > "2000"


def test_the_version_is_that_of_the_package():
    assert mllm_msr.__version__
    assert provenance.Provenance().version == ""
