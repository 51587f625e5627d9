"""Arguments of plugin constructors: every value of a wrong type or out of range is one sentence."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from mllm_msr import registry
from mllm_msr.backends._http.retry import Timing
from mllm_msr.config.arguments import _value_problem, argument_problems, declared_type
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import SettingsError

SECTIONS: dict[registry.Kind, str] = {
    "datasets": "data",
    "backends": "model",
    "baselines": "baselines.NAME",
}
# Numbers that may be negative.
ANY_NUMBER = {"min_rating"}


def problems(kind: registry.Kind, name: str, **arguments: Any) -> list[str]:
    section = SECTIONS[kind].replace("NAME", name)
    found = argument_problems(kind, name, arguments, section)
    return [problem for problem in found if "requires the setting" not in problem]


def numbers() -> Iterator[Any]:
    """Return kind, plugin and name of every argument that is a number."""
    for kind in SECTIONS:
        for name in registry.names(kind):
            plugin = registry.find(kind, name)
            for argument in inspect.signature(plugin).parameters:
                declared = declared_type(plugin, argument)
                # `X | None` and `Annotated[X, ...]`, in any order.
                parts = [declared]
                for part in parts:
                    if typing.get_origin(part) in (typing.Union, types.UnionType, Annotated):
                        parts += typing.get_args(part)
                if int in parts or float in parts:
                    yield pytest.param(kind, name, argument, id=f"{name}.{argument}")


@pytest.mark.parametrize(("kind", "name", "argument"), list(numbers()))
def test_values_that_no_number_can_have_are_rejected_by_name(
    kind: registry.Kind, name: str, argument: str
) -> None:
    declared = declared_type(registry.find(kind, name), argument)
    for wrong in ("8", True, math.nan, math.inf, [], {}, 10**30):
        assert _value_problem(declared, wrong), wrong
    value = "8" if argument in ANY_NUMBER else -1
    found = problems(kind, name, **{argument: value})
    assert found[0].startswith(f"{SECTIONS[kind].replace('NAME', name)}.{argument}"), found
    assert str(value) in found[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.batch_size=-1", "model.batch_size=-1: must be greater than or equal to 1."),
        ("model.batch_size=0", "model.batch_size=0: must be greater than or equal to 1."),
        ("model.threads=-1", "model.threads=-1: must be greater than or equal to 1."),
        ("model.max_batch_tokens=0", "model.max_batch_tokens=0: must be greater than 0."),
        ("model.speculative_tokens=1.5", "model.speculative_tokens=1.5: must be an integer."),
        ("model.batch_size='8'", "model.batch_size='8': must be an integer."),
        ("model.device=gpu", "model.device='gpu': "),
        ("model.precision=float8", "model.precision='float8': must be 'auto', 'float32' or"),
        ("data.n_items=3", "data.n_items=3: must be greater than or equal to 30."),
        ("baselines.sasrec.loss=hinge", "baselines.sasrec.loss='hinge': must be 'softmax'"),
        ("baselines.sasrec.hidden=63", "baselines.sasrec.n_heads must divide hidden (63)"),
        ("baselines.sasrec.dropout=1", "baselines.sasrec.dropout must be in [0, 1), but is 1."),
        ("baselines.tallrec.seed=-1", "baselines.tallrec.seed=-1: must be greater than or"),
        ("baselines.tallrec.backend=gpt", "baselines.tallrec.backend='gpt': Unknown backend 'gpt'"),
        (
            "baselines.tallrec.options={batch_size: -1}",
            "baselines.tallrec.options.batch_size=-1: must be greater than or equal to 1.",
        ),
    ],
)
def test_settings_name_the_argument_and_its_value(override: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("default", [override], environment={})
    (problem,) = caught.value.problems
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("data.path=shop", "amazon_reviews, files, microlens, movielens. {} dataset"),
        ("data.user_column=customer", "files. {} dataset"),
        ("model.url=http://host", "openai. {} model.backend"),
        ("baselines.tallrec.options={url: http://host}", "openai. {} baselines.tallrec.backend"),
    ],
)
def test_arguments_of_other_plugins_name_these(override: str, hint: str) -> None:
    kind = "dataset" if override.startswith("data.") else "backend"
    with pytest.raises(SettingsError) as caught:
        load_settings("default", [override], environment={})
    (problem,) = caught.value.problems
    assert problem.startswith("Unknown setting ")
    hint = hint.format("Select one of them with")
    assert problem.endswith(f" of the {kind} 'demo'. It belongs to {hint}=NAME.")


def test_an_address_is_checked_with_the_settings() -> None:
    (found,) = problems("backends", "openai", checkpoint="m", url="ftp://host")
    assert found.startswith("model.url='ftp://host': 'ftp://host' is not a valid endpoint address.")


def test_a_long_value_is_shortened() -> None:
    (problem,) = problems("backends", "demo", batch_size="8" * 10_000)
    assert len(problem) < 200


def test_objects_of_python_code_are_accepted() -> None:
    assert problems("backends", "openai", checkpoint="m", timing=Timing()) == []
    assert problems("backends", "openai", checkpoint="m", timing={})
    assert problems("backends", "huggingface", checkpoint="m", adapter=Path("x")) == []
    assert problems("backends", "huggingface", checkpoint="m", adapter="x") == []
    assert problems("backends", "mock", answers=lambda _: "yes") == []
    assert problems("backends", "mock", answers=3)


def test_defaults_and_tuned_values_of_all_presets_are_valid() -> None:
    for preset in ("default", "demo"):
        load_settings(preset, environment={})
    load_settings("microlens", ["data.path=x"], environment={})
