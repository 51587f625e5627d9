"""The reference of settings: complete, with readable types and defaults."""

from __future__ import annotations

import pytest

from mllm_msr import registry
from mllm_msr.config.loading import load_settings
from mllm_msr.config.reference import GENERAL, groups, plugin_reference, reference


def test_every_setting_has_a_description() -> None:
    settings = reference()
    assert len(settings) > 40
    assert not [setting.key for setting in settings if not setting.description]


def test_types_and_defaults_are_readable() -> None:
    found = {setting.key: (setting.type, setting.default) for setting in reference()}
    assert found["preset"] == ("str", "default")
    assert found["train.devices"] == ("int | auto", "auto")
    assert found["infer.max_items"] == ("int | null", "null")
    assert found["data.negatives"] == ("list[uniform | popularity]", "[uniform, popularity]")
    assert found["score.model"] == ("ModelSettings | null", "null")


def test_values_of_given_settings_replace_the_defaults() -> None:
    settings = load_settings("demo", ["train.seed=7"], environment={})
    found = {setting.key: setting.default for setting in reference(settings)}
    assert (found["preset"], found["train.seed"]) == ("demo", "7")
    assert found["data.run_folds"] == "[0]"
    defaults = {setting.key: setting.default for setting in reference()}
    assert found.keys() == defaults.keys()
    assert found["report.seed"] == defaults["report.seed"]


def test_values_that_are_not_saved_are_not_listed() -> None:
    secret = ["serve.state=postgresql://me:secret@host/db"]
    settings = load_settings("demo", secret, environment={})
    (state,) = (row for row in reference(settings) if row.key == "serve.state")
    assert state.default == "null"


def test_every_setting_is_in_a_group_with_a_meaning() -> None:
    found = groups()
    assert {key.rpartition(".")[0] or GENERAL for key, *_ in reference()} <= set(found)
    assert all(meaning.endswith(".") for meaning in found.values())
    assert next(iter(found)) == GENERAL


@pytest.mark.parametrize("kind", ["datasets", "backends", "baselines"])
def test_every_argument_of_a_plugin_has_a_description(kind: registry.Kind) -> None:
    rows = [row for name in registry.names(kind) for row in plugin_reference(kind, name)]
    assert len(rows) > 20
    assert not [row.key for row in rows if not row.description]


def test_arguments_of_a_dataset_are_settings() -> None:
    found = {row.key: row for row in plugin_reference("datasets", "files")}
    assert (found["data.path"].default, found["data.time_unit"].default) == ("required", "s")
    assert found["data.rating_column"].type == "str | null"
    assert found["data.time_column"].description.endswith("; null uses the row order.")
    assert found["data.image_column"].description.endswith("named after their ids.")
    assert "baselines.sasrec.epochs" in [row.key for row in plugin_reference("baselines", "sasrec")]
