"""The reference of settings: complete, with readable types and defaults."""

from __future__ import annotations

from mllm_msr.config.reference import reference


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
