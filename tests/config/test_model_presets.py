"""Presets by model name: facts, settings, and their place among other sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings, override, preset_names
from mllm_msr.config.model_presets import model_facts, model_preset_names, read_model_preset
from mllm_msr.errors import SettingsError, UnknownNameError

SUPPORTED = {
    "smollm2": ("135m",),
    "smolvlm2": ("256m", "500m", "2.2b"),
    "qwen3-vl": ("2b", "4b", "8b"),
    "qwen3.5": ("0.8b", "2b", "4b", "9b"),
    "internvl3.5": ("1b", "2b"),
    "gemma-4": ("e2b", "e4b"),
    "lfm2-vl": ("450m", "1.6b"),
    "qwen3-vl-reranker": ("2b", "8b"),
    "llava-v1.6-mistral": ("7b",),
    "llama-3": ("8b",),
}


def test_there_is_a_preset_for_every_supported_model() -> None:
    expected = {f"{family}-{size}" for family, sizes in SUPPORTED.items() for size in sizes}
    assert set(model_preset_names()) == expected
    assert not expected & set(preset_names())


@pytest.mark.parametrize("name", model_preset_names())
def test_a_model_preset_loads_and_names_its_model(name: str) -> None:
    facts = model_facts(name)
    assert facts.parameters.upper() == name.rpartition("-")[2].upper()
    settings = load_settings(None, {"model.preset": name}, environment={})
    assert settings.model.plugin_kwargs().get("checkpoint") == facts.checkpoint
    if facts.checkpoint is None:
        assert settings.model.backend == "smollm"
    else:
        assert settings.model.backend == "huggingface"
        assert facts.checkpoint.count("/") == 1
    assert settings.train.method == "lora"
    assert set(read_model_preset(name)) <= {
        *("model", "train", "recommend", "summarize", "infer", "align", "prompts")
    }
    # As a preset of the run, it gives the same settings.
    whole = load_settings(name, environment={})
    assert whole.preset == name
    assert whole.model_dump(exclude={"preset"}) == settings.model_dump(exclude={"preset"})


def test_a_model_preset_combines_with_the_preset_of_a_dataset() -> None:
    changes = ["data.path=x", "model.preset=qwen3-vl-2b"]
    settings = load_settings("microlens", changes, environment={})
    plain = load_settings("microlens", ["data.path=x"], environment={})
    assert settings.data == plain.data
    assert settings.score == plain.score
    assert (plain.train.method, settings.train.method) == ("full", "lora")
    assert settings.model.plugin_kwargs()["checkpoint"] == "Qwen/Qwen3-VL-2B-Instruct"


@pytest.mark.parametrize("reverse", [False, True])
def test_other_settings_of_the_same_source_take_precedence(reverse: bool) -> None:
    changes = ["model.preset=qwen3-vl-2b", "model.image_tokens=64", "train.batch_size=1"]
    texts = changes[::-1] if reverse else changes
    settings = load_settings("demo", texts, environment={})
    assert settings.model.plugin_kwargs()["image_tokens"] == 64
    assert settings.train.batch_size == 1
    assert settings.train.accumulate == 2
    # The arguments of the model that it replaces are gone.
    assert "precision" not in settings.model.plugin_kwargs()


def test_files_and_later_sources(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("model: {preset: qwen3-vl-4b, dtype: 4bit}\ntrain: {rank: 4}\n")
    settings = load_settings(None, ["train.rank=2"], file=file, environment={})
    assert settings.model.plugin_kwargs()["dtype"] == "4bit"
    assert (settings.train.rank, settings.train.accumulate) == (2, 4)
    replaced = load_settings(None, ["model.preset=smolvlm2-256m"], file=file, environment={})
    assert "dtype" not in replaced.model.plugin_kwargs()
    served = load_settings(
        None, ["model.backend=openai", "model.url=http://localhost:1/v1"], file=file, environment={}
    )
    assert served.model.plugin_kwargs() == {
        "checkpoint": "Qwen/Qwen3-VL-4B-Instruct",
        "url": "http://localhost:1/v1",
    }


def test_stages_have_models_of_their_own() -> None:
    changes = ["model.preset=llava-v1.6-mistral-7b", "infer.model.preset=llama-3-8b"]
    settings = load_settings(None, changes, environment={})
    assert settings.infer.model is not None
    checkpoint = settings.infer.model.plugin_kwargs()["checkpoint"]
    assert checkpoint == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert settings.model.plugin_kwargs()["checkpoint"] == "llava-hf/llava-v1.6-mistral-7b-hf"
    assert settings.summarize.model is None


def test_a_reranker_gets_its_layout_and_another_model_for_texts() -> None:
    settings = load_settings("qwen3-vl-reranker-2b", environment={})
    assert settings.recommend.order == "reranker"
    for stage in (settings.summarize, settings.infer):
        assert stage.model is not None
        assert stage.model.plugin_kwargs()["checkpoint"] == "Qwen/Qwen3-VL-2B-Instruct"


def test_saved_settings_do_not_depend_on_the_preset(tmp_path: Path) -> None:
    settings = load_settings("demo", ["model.preset=qwen3-vl-2b"], environment={})
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml())
    assert "preset: qwen3-vl-2b" not in file.read_text()
    loaded = load_settings(None, file=file, environment={})
    assert loaded.model_dump() == settings.model_dump()
    assert override(settings, ["train.rank=4"]).model.plugin_kwargs() == (
        settings.model.plugin_kwargs()
    )


def test_unknown_models_are_rejected_with_the_known_ones() -> None:
    with pytest.raises(
        SettingsError, match=r"model.preset='qwen3-vl-3b': .*Did you mean 'qwen3-vl"
    ):
        load_settings(None, ["model.preset=qwen3-vl-3b"], environment={})
    with pytest.raises(UnknownNameError, match="Did you mean 'smolvlm2-256m'"):
        load_settings("smolvlm-256m", environment={})
    with pytest.raises(UnknownNameError, match="Unknown model preset 'gpt'"):
        read_model_preset("gpt")


def test_model_of_a_stage_that_names_no_backend_has_the_settings_of_the_model() -> None:
    changes = ["model.preset=smollm2-135m", "score.model.dtype=bfloat16"]
    settings = load_settings("default", changes, environment={})
    assert settings.score.model is not None
    assert settings.score.model.backend == "smollm"
    assert settings.score.model.plugin_kwargs() == {
        **settings.model.plugin_kwargs(),
        "dtype": "bfloat16",
    }


def test_model_of_a_stage_that_names_a_backend_has_only_its_own_settings() -> None:
    changes = ["model.preset=llava-v1.6-mistral-7b", "score.model.backend=demo"]
    settings = load_settings("default", changes, environment={})
    assert settings.score.model is not None
    assert "checkpoint" not in settings.score.model.plugin_kwargs()
