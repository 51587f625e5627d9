"""Errors: one sentence in three parts, and the exit codes that the command line promises."""

from __future__ import annotations

import inspect

import pytest

from mllm_msr import errors


def test_a_message_says_what_was_needed_what_came_and_what_to_do() -> None:
    error = errors.DataError(needed="a column 'user_id'", received="'uid'", remedy="rename it")
    assert str(error) == "needed a column 'user_id', received 'uid': rename it."


def test_settings_error_reports_every_problem() -> None:
    error = errors.SettingsError(["a is wrong", "b is wrong"])
    assert "2 with one" in str(error)
    assert "a is wrong; b is wrong" in str(error)


def test_missing_extra_names_the_command_that_mends_it() -> None:
    assert "pip install 'mllm-msr[train]'" in str(errors.MissingExtraError("peft", "train"))


@pytest.mark.parametrize(
    "kind",
    [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__],
)
def test_usage_errors_exit_with_2_and_all_others_with_1(kind: type[errors.MllmMsrError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, errors.UsageError) else 1)


def test_the_docstring_draws_every_class() -> None:
    drawn = errors.__doc__ or ""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if kind.__module__ == errors.__name__:
            assert name in drawn
