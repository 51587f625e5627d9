from __future__ import annotations

import json

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.training.fingerprint import (
    examples_digest,
    run_fingerprint,
    training_fingerprint,
)


def test_defaults_have_an_empty_fingerprint() -> None:
    assert training_fingerprint(TrainSettings()) == {}
    assert training_fingerprint(TrainSettings(rank=8, epochs=3)) == {}


def test_settings_without_effect_on_the_weights_are_left_out() -> None:
    settings = TrainSettings(
        enabled=False,
        checkpoint_every=7,
        cache_vision=False,
        gradient_checkpointing=True,
        loggers=("csv",),
    )
    assert training_fingerprint(settings) == {}


def test_changed_settings_are_json_values_by_name() -> None:
    found = training_fingerprint(TrainSettings(seed=1, clip=None, precision="fp32"))
    assert found == {"seed": 1, "clip": None, "precision": "fp32"}
    assert json.loads(json.dumps(found)) == found


def test_order_of_target_layers_does_not_matter() -> None:
    one = training_fingerprint(TrainSettings(target=("v_proj", "q_proj")))
    assert one == training_fingerprint(TrainSettings(target=("q_proj", "v_proj")))
    assert one == {"target": ["q_proj", "v_proj"]}


def test_a_run_depends_on_its_model_its_examples_and_its_settings() -> None:
    settings = TrainSettings(seed=1)
    found = run_fingerprint("model@1", {"train": [], "validation": []}, settings)
    assert found == {
        "model": "model@1",
        "train_examples": examples_digest([]),
        "validation_examples": examples_digest([]),
        "seed": 1,
    }
