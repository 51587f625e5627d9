"""Presets by model name: the files in `presets/models`, shown by `mllm-msr list models`.

A file has the facts about a model (`about`), the section `model`, and other settings that suit it.
`model.preset=NAME` applies the file to a run; `infer.model.preset=NAME`, and so on, apply its
section `model` to one stage. Settings that the same source contains take precedence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mllm_msr import registry
from mllm_msr.config.yaml_source import parse_yaml, yaml_names


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model; None if they are unknown.

    Attributes:
        name: Name of the preset.
        checkpoint: Id on the Hugging Face hub; None if its backend brings the model.
        parameters: Number of parameters, as the publisher states it ("2B").
        license: License of the weights, as an SPDX identifier if it has one.
        context: Maximum number of tokens of a prompt.
        vllm: Whether vLLM has an implementation of the model.
        use: What the model is for, in a few words.
    """

    name: str
    checkpoint: str | None
    parameters: str
    license: str | None
    context: int | None
    vllm: bool | None
    use: str


def model_preset_names() -> list[str]:
    """Return the names of all model presets, in alphabetical order."""
    return yaml_names(files("mllm_msr.config") / "presets" / "models")


def read_model_preset(name: str) -> dict[str, Any]:
    """Return the nested settings of a model preset.

    Raises:
        UnknownNameError: There is no such preset.
    """
    content = _read(name)
    del content["about"]
    return content


def model_facts(name: str) -> ModelFacts:
    """Return the facts about the model of a preset.

    Raises:
        UnknownNameError: There is no such preset.
    """
    content = _read(name)
    return ModelFacts(name=name, checkpoint=content["model"].get("checkpoint"), **content["about"])


def inherit_model(settings: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    """Complete the models of stages that name no backend with the settings of `model`.

    `score.model.dtype=bfloat16` alone then changes the precision of that stage, and nothing else.

    Args:
        settings: Nested settings of all sources.
        sections: Dotted names of the sections with a model, such as "score.model"; "model" itself
            stays as it is.

    Returns:
        The settings; the given ones are not changed.
    """
    found = dict(settings)
    base = settings.get("model")
    for section in sections:
        stage, _, nested = section.partition(".")
        values = found.get(stage)
        model = values.get(nested) if isinstance(values, Mapping) else None
        if isinstance(base, Mapping) and isinstance(model, Mapping) and "backend" not in model:
            found[stage] = {**found[stage], nested: {**base, **model}}
    return found


def _read(name: str) -> dict[str, Any]:
    if name not in model_preset_names():
        raise registry.unknown_name_error("model preset", name, model_preset_names())
    path = files("mllm_msr.config") / "presets" / "models" / f"{name}.yaml"
    content: dict[str, Any] = parse_yaml(path.read_text(encoding="utf-8"))
    return content
