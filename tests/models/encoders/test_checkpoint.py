"""Checkpoints of encoders: loading, safetensors only, and errors."""

from __future__ import annotations

import pytest
import torch

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders.checkpoint import EncoderCheckpoint, unusable_encoder


def test_a_model_is_loaded_in_evaluation_mode_and_float32(bert):
    model = EncoderCheckpoint(str(bert)).load_model(device="cpu")
    assert not model.training
    assert model.dtype == torch.float32


def test_weights_that_are_not_safetensors_are_rejected(bert):
    weights = bert / "model.safetensors"
    weights.rename(bert / "pytorch_model.bin")
    checkpoint = EncoderCheckpoint(str(bert))
    with pytest.raises(BackendError, match="Cannot load the encoder"):
        checkpoint.load_model()


def test_a_missing_folder_is_reported_immediately():
    with pytest.raises(BackendError, match=r"Cannot load the encoder '\./no-such-folder'"):
        EncoderCheckpoint("./no-such-folder")


def test_an_error_names_the_encoder_the_reason_and_the_alternatives():
    message = str(unusable_encoder("x", OSError("It is broken.\nDetails follow.")))
    assert message.startswith("Cannot load the encoder 'x': It is broken. Available for texts: ")
    assert "KeyError" in str(unusable_encoder("x", KeyError()))
