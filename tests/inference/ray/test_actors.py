"""Tests of workers and errors that cross processes; `test_backend.py` runs whole pools."""

from __future__ import annotations

import inspect

import pytest

from mllm_msr import errors
from mllm_msr.errors import BackendError, MissingExtraError, MllmMsrError, SettingsError
from mllm_msr.inference.ray.actors import RemoteError, Worker
from mllm_msr.types import Prompt


@pytest.mark.parametrize(
    "error",
    [
        BackendError("No model."),
        MissingExtraError("peft", "train"),
        SettingsError(["One problem.", "Another problem."]),
    ],
)
def test_errors_keep_their_type_and_message(error: MllmMsrError) -> None:
    restored = RemoteError.from_error(error).to_error()
    assert type(restored) is type(error)
    assert str(restored) == str(error)


def test_every_error_of_the_package_can_be_restored() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in classes if issubclass(kind, MllmMsrError)]
    assert len(kinds) > 10
    for kind in kinds:
        restored = RemoteError(kind.__name__, "A problem.").to_error()
        assert (type(restored), str(restored)) == (kind, "A problem.")


def test_unknown_error_types_become_backend_errors() -> None:
    assert type(RemoteError("PluginError", "A problem.").to_error()) is BackendError


def test_a_worker_answers_and_scores(prompts: list[Prompt]) -> None:
    worker = Worker("mock", {"answers": ["calm"], "scores": (0.5, 0.25), "fingerprint": "m"})
    assert worker.fingerprint() == "mock:m"
    responses = list(worker.run(prompts[:3], None))
    assert [response[0] for response in responses if isinstance(response, tuple)] == [0, 1, 2]
    (scored,) = worker.run(prompts[:1], ("yes", "no"))
    assert isinstance(scored, tuple)
    assert scored[0] == 0
    assert scored[1].error is None


def test_a_worker_returns_the_errors_of_its_backend(prompts: list[Prompt]) -> None:
    (error,) = Worker("mock", {}).run(prompts, ("yes", "maybe"))
    assert error == RemoteError(
        "AnswerTokenError",
        "The mock backend does not know the choices ['maybe']. Known: ['no', 'yes']. Add them to "
        "the constructor's `choices`.",
    )
    unknown = Worker("nothing", {}).fingerprint()
    assert isinstance(unknown, RemoteError)
    assert unknown.kind == "UnknownNameError"
