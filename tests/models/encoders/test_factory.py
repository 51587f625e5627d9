"""Encoders by name: built-in encoders, checkpoints, and errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models.encoders import base, text
from mllm_msr.models.encoders.factory import (
    open_image_encoder,
    open_retrieval_encoder,
    open_text_encoder,
)
from mllm_msr.models.encoders.image.colors import ColorEncoder
from mllm_msr.models.encoders.image.demo import DemoImageEncoder
from mllm_msr.models.encoders.image.vgg19 import Vgg19Encoder
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.models.encoders.text.demo import DemoTextEncoder
from mllm_msr.models.encoders.text.hashing import HashingEncoder
from mllm_msr.models.encoders.transformers_image import TransformersImageEncoder
from mllm_msr.models.encoders.transformers_text import TransformersTextEncoder

CORPUS = ["river boats", "boats at dawn"]


def test_built_in_names_open_their_encoders(tmp_path):
    assert isinstance(open_text_encoder("hashing"), HashingEncoder)
    assert isinstance(open_text_encoder("demo"), DemoTextEncoder)
    assert isinstance(open_image_encoder("colors"), ColorEncoder)
    assert isinstance(open_image_encoder("demo"), DemoImageEncoder)
    (tmp_path / "vgg.safetensors").touch()
    assert isinstance(open_image_encoder(f"vgg19:{tmp_path / 'vgg.safetensors'}"), Vgg19Encoder)
    assert isinstance(open_retrieval_encoder("hashing", CORPUS), LsaEncoder)


def test_other_names_are_checkpoints(bert, image_checkpoint):
    assert isinstance(open_text_encoder(str(bert)), TransformersTextEncoder)
    vit = str(image_checkpoint("vit"))
    assert isinstance(open_image_encoder(vit), TransformersImageEncoder)


def test_vectors_for_retrieval_have_unit_length(bert):
    for name in ("hashing", str(bert)):
        vectors = open_retrieval_encoder(name, CORPUS).encode(CORPUS)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_new_file_is_a_new_encoder(tmp_path, monkeypatch):
    code = "class Mine:\n    def encode(self, texts):\n        return len(texts)\n"
    (tmp_path / "my_own.py").write_text(code)
    monkeypatch.setattr(text, "__path__", [*text.__path__, str(tmp_path)])
    monkeypatch.setattr(base, "__file__", str(tmp_path / "base.py"))
    (tmp_path / "text").symlink_to(tmp_path)
    assert "my-own" in base.encoder_names("text")
    assert open_text_encoder("my-own").encode(["a", "b"]) == 2


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vgg19:absent.safetensors", "does not exist"),
        ("vgg19", "takes an argument, as in vgg19:FILE"),
        ("colors:red", "takes no argument"),
        ("./no-such-folder", ""),
    ],
)
def test_errors_for_unknown_encoders_list_the_known_ones(name, problem):
    known = r"Available for texts: demo, hashing, minilm; for images: colors, demo, efficient"
    with pytest.raises(BackendError, match=f"Cannot load the encoder .*{problem}.* {known}"):
        open_image_encoder(name)
    with pytest.raises(BackendError, match=r"no-such-folder.*hashing"):
        open_retrieval_encoder("./no-such-folder", CORPUS)


def test_default_encoders_do_not_import_torch():
    code = (
        "import sys; from mllm_msr.models.encoders import factory as f; "
        "f.open_text_encoder('hashing'), f.open_image_encoder('colors'), "
        "f.open_retrieval_encoder('hashing', ['a b']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
