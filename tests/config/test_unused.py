"""Settings without an effect are named when a user gives them."""

from __future__ import annotations

import pytest

from mllm_msr.config.loading import load_settings, override
from mllm_msr.config.reference import reference
from mllm_msr.config.unused import NEEDS, unused_settings

FILES = ("dataset=files", "data.path=x")
HISTORY = ("infer.enabled=false", "recommend.reads=history")
# A setting, other settings with which it has no effect, and the one that it needs.
CASES = [
    ("data.folds=4", ["data.protocol=released-code"], "data.protocol=leave-last-out"),
    ("data.user_sample=after-filter", [], "data.max_users=200"),
    ("data.time_unit=ms", [*FILES, "data.time_column=null"], "data.time_column=timestamp"),
    ("data.time_format=%Y", [*FILES, "data.time_column=null"], "data.time_column=timestamp"),
    ("data.time_unit=ms", [*FILES, "data.time_format=%Y"], "data.time_format=null"),
    ("data.item_type=film", [*FILES, "item_type=book"], "item_type=null"),
    ("images.max_side=64", ["images.store=false"], "images.store=true"),
    ("images.allowed_hosts=[example.org]", [], "images.download=true"),
    ("executor.workers=5", [], "executor.name=ray"),
    ("align.epochs=5", [], "align.enabled=true"),
    ("summarize.words=9", ["summarize.enabled=false", *HISTORY], "summarize.enabled=true"),
    (
        "summarize.model.backend=mock",
        ["summarize.enabled=false", *HISTORY],
        "summarize.enabled=true",
    ),
    (
        "summarize.text_words=9",
        ["summarize.modalities=[image]"],
        "summarize.modalities=[text, image]",
    ),
    (
        "summarize.image_words=9",
        ["summarize.modalities=[text]"],
        "summarize.modalities=[text, image]",
    ),
    ("summarize.words=9", ["summarize.modalities=[text]"], "summarize.modalities=[text, image]"),
    ("summarize.words=9", ["summarize.modalities=[image]"], "summarize.modalities=[text, image]"),
    ("infer.words=9", [*HISTORY], "infer.enabled=true"),
    ("infer.model.backend=mock", [*HISTORY], "infer.enabled=true"),
    ("recommend.history_items=3", [], "recommend.reads=history"),
    ("recommend.item_words=3", [], "recommend.item_text=text"),
    ("recommend.collaborative_min_interactions=3", [], "recommend.collaborative=sasrec"),
    ("train.epochs=9", ["train.enabled=false"], "train.enabled=true"),
    ("train.rank=4", ["train.method=full"], "train.method=lora"),
    ("train.target=all-linear", ["train.method=frozen-lower-layers"], "train.method=lora"),
    ("train.upper_layers=4", [], "train.method=frozen-lower-layers"),
    ("train.pointwise_share=0.5", [], "train.objective=listwise"),
    ("train.targets_per_user=2", ["data.train_targets=last"], "data.train_targets=blocks"),
    ("distill.budget=99", [], "distill.enabled=true"),
    ("report.seed=3", ["report.case_studies=0"], "report.case_studies=4"),
    (
        "retrieve.recent_share=0.5",
        ["retrieve.generators=[item_knn]"],
        "retrieve.generators=[preference, collaborative, recent]",
    ),
    (
        "retrieve.collaborative=sasrec",
        ["retrieve.generators=[recent]"],
        "retrieve.generators=[preference, collaborative, recent]",
    ),
    ("serve.update=event", [*HISTORY], "infer.enabled=true"),
    ("serve.variants={a: {}, b: {}}", [], "serve.experiment=NAME"),
]


@pytest.mark.parametrize(("setting", "others", "need"), CASES)
def test_a_setting_without_an_effect_is_named_with_the_fix(
    setting: str, others: list[str], need: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_settings("default", [*others, setting], environment={})
    (message,) = (each for each in caplog.messages if setting.startswith(each.split("=", 1)[0]))
    key, value = need.split("=", 1)
    assert f" has no effect with {key}=" in message
    assert f". Set {key}={value}, or leave " in message
    # With the fix, it has an effect.
    caplog.clear()
    load_settings("default", [*others, setting, need], environment={})
    assert not [each for each in caplog.messages if f"with {key}=" in each]


def test_values_of_presets_files_and_saved_runs_are_not_named(tmp_path, caplog) -> None:
    for preset in ("default", "demo"):
        load_settings(preset, ["train.enabled=false", "train.max_text_tokens=99"], environment={})
    load_settings("default", ["model.preset=smollm2-135m"], environment={})
    file = tmp_path / "settings.yaml"
    file.write_text(load_settings("demo", ["train.method=full"], environment={}).to_yaml())
    override(load_settings(None, file=file, environment={}), ["train.rank=4"])
    assert caplog.messages == []


def test_every_source_of_a_user_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    load_settings(environment={"MLLM_MSR__TRAIN__UPPER_LAYERS": "4"})
    load_settings(overrides={"train": {"upper_layers": 4}}, environment={})
    load_settings(train={"upper_layers": 4}, environment={})
    expected = (
        "train.upper_layers=4 has no effect with train.method='lora'. Set "
        "train.method=frozen-lower-layers, or leave train.upper_layers out."
    )
    assert caplog.messages == [expected] * 3


def test_all_named_settings_exist() -> None:
    arguments = {"data.time_unit", "data.time_format", "data.item_type"}
    known = {setting.key for setting in reference()} | arguments
    assert {key for _, _, keys in NEEDS for key in keys} <= known
    settings = load_settings(environment={})
    assert list(unused_settings(settings, settings.model_dump(exclude_defaults=True))) == []
