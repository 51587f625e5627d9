"""Errors: their messages and the exit codes that the command line promises."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import pytest

from mllm_msr import errors

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
]


def test_the_message_is_the_text_of_the_error() -> None:
    assert str(errors.DataError("The file is empty.")) == "The file is empty."


def test_a_single_settings_problem_is_the_message() -> None:
    error = errors.SettingsError(["Unknown setting 'train.learning_rat'."])
    assert str(error) == "Unknown setting 'train.learning_rat'."
    assert error.problems == ("Unknown setting 'train.learning_rat'.",)


def test_several_settings_problems_are_listed() -> None:
    error = errors.SettingsError(["a is wrong.", "b is wrong."])
    assert str(error) == "2 settings cannot be used:\n  - a is wrong.\n  - b is wrong."
    assert error.problems == ("a is wrong.", "b is wrong.")


def test_missing_extra_contains_the_install_command() -> None:
    message = str(errors.MissingExtraError("peft", "train"))
    assert "'peft' is not installed; it is part of mllm-msr[train]. Run: pip install" in message


def test_a_missing_package_of_an_extra_is_reported_with_the_extra() -> None:
    def fail(name: str) -> None:
        with errors.convert_missing_extras():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(errors.MissingExtraError, match=r"part of mllm-msr\[models\]"):
        fail("torch")
    # A part of an installed package, and packages that no extra has.
    for other in ("torch.no_such_module", "no_such_package"):
        with pytest.raises(ModuleNotFoundError):
            fail(other)


def test_a_required_extra_is_installed_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    errors.require_extra("baselines")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingExtraError, match=r"'scipy' .* mllm-msr\[baselines\]"):
        errors.require_extra("baselines")


def test_the_install_command_uses_the_constraints_of_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(errors.__file__).parents[2]
    monkeypatch.chdir(root)
    assert errors.install_command("train") == "pip install -c constraints.txt -e '.[train]'"
    # Trackers that need older packages than the constraints have.
    assert errors.install_command("trackio") == "pip install -e '.[trackio]'"
    assert errors.install_command("mlflow") == "pip install -e '.[mlflow]'"
    monkeypatch.chdir(tmp_path)
    command = shlex.split(errors.install_command("train"))
    assert command == [
        "pip", "install", "-c", str(root / "constraints.txt"), "-e", f"{root}[train]"
    ]  # fmt: skip
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages/mllm_msr/errors.py"))
    assert errors.install_command("serve") == "pip install 'mllm-msr[serve]'"
    assert errors.install_command() == "pip install mllm-msr"


@pytest.mark.parametrize("kind", CLASSES)
def test_usage_errors_exit_with_2_and_all_others_with_1(kind: type[errors.MllmMsrError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, errors.UsageError) else 1)


def test_the_module_docstring_lists_every_class_below_its_base() -> None:
    lines = (errors.__doc__ or "").splitlines()
    depth = {
        kind.__name__: next(line.index(kind.__name__) for line in lines if kind.__name__ in line)
        for kind in CLASSES
    }
    for kind in CLASSES:
        for base in kind.__bases__:
            assert base is Exception or depth[kind.__name__] == depth[base.__name__] + 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("\n the problem\nthe details"), "the problem"),
        (RuntimeError("one line"), "one line"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(error: Exception, expected: str) -> None:
    assert errors.first_line(error) == expected
