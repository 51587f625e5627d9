"""Tests of the section `distill`."""

from __future__ import annotations

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.errors import SettingsError


def test_a_list_needs_two_items() -> None:
    with pytest.raises(SettingsError, match=r"distill\.list_size"):
        load_settings("default", ["distill.list_size=1"], environment={})


def test_the_budget_is_enough_for_a_list() -> None:
    for changes in (["distill.budget=15"], ["distill.list_size=20", "distill.budget=19"]):
        with pytest.raises(
            SettingsError,
            match=r"distill\.list_size.*less than one list\. Lower distill\.list_size",
        ):
            load_settings("default", changes, environment={})
    load_settings("default", ["distill.budget=16"], environment={})


def test_the_stage_is_off_by_default() -> None:
    assert not load_settings("default", [], environment={}).distill.enabled
