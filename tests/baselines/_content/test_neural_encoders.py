"""Frozen networks: pooling as declared, padding without effect, weights from safetensors only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from mllm_msr.baselines._content.features import _open_image_encoder, _open_text_encoder
from mllm_msr.baselines._content.neural_encoders import Vgg19, vgg19_layers
from mllm_msr.errors import BackendError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "river", "boats", "at", "dawn"]
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    words = models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_texts_are_the_mean_of_their_own_tokens(bert):
    texts = ["river boats at dawn", "river", "boats " * 40]
    found = _open_text_encoder(str(bert)).encode(texts)
    model = transformers.BertModel.from_pretrained(bert).eval()
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()][:16]])
        with torch.no_grad():
            expected = model(ids).last_hidden_state[0].mean(dim=0)
        assert np.allclose(row, expected.numpy(), atol=1e-5)


def test_fingerprint_follows_the_weights(bert):
    before = _open_text_encoder(str(bert)).fingerprint
    assert _open_text_encoder(str(bert)).fingerprint == before
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert _open_text_encoder(str(bert)).fingerprint != before


def vit():
    return transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **SMALL))


def resnet():
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
    )
    return transformers.ResNetModel(config)


def clip():
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config={**SMALL, "vocab_size": 9}, vision_config=vision, projection_dim=6
    )
    return transformers.CLIPModel(config)


@pytest.mark.parametrize(("build", "width"), [(vit, 8), (resnet, 8), (clip, 6)])
def test_image_encoders_of_every_kind(tmp_path, images, build, width):
    torch.manual_seed(0)
    build().save_pretrained(tmp_path)
    processors = {
        "clip": transformers.CLIPImageProcessorPil,
        "vit": transformers.ViTImageProcessorPil,
    }
    kind = processors.get(build.__name__, transformers.ViTImageProcessorPil)
    square = {"height": 8, "width": 8}
    kind(size=square, crop_size=square).save_pretrained(tmp_path)
    encoder = _open_image_encoder(str(tmp_path))
    opened = [Image.open(path) for path in images]
    found = encoder.encode(opened)
    assert found.shape == (len(images), width)
    assert np.ptp(found, axis=0).max() > 1e-4
    assert np.allclose(encoder.encode(opened[1:2])[0], found[1], atol=1e-5)


def test_the_packaged_model_reads_texts_and_images(images):
    texts = _open_text_encoder("demo").encode(["golden lantern", "a calm film of a lantern"])
    images = _open_image_encoder("demo").encode([Image.open(path) for path in images])
    assert texts.shape == (2, 320)
    assert images.shape == (len(images), 320)
    assert np.ptp(images, axis=0).max() > 0


def test_vgg19_reads_weights_by_their_public_names(tmp_path, monkeypatch):
    # Layers of the real widths would take half a gigabyte.
    def narrow():
        return torch.nn.ModuleDict(
            {
                "features": torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.MaxPool2d(100)),
                "classifier": torch.nn.Sequential(torch.nn.Linear(8, 5)),
            }
        )

    monkeypatch.setattr("mllm_msr.baselines._content.neural_encoders.vgg19_layers", narrow)
    state = dict(narrow().state_dict())
    save_file({**state, "classifier.6.bias": torch.zeros(3)}, tmp_path / "vgg.safetensors")
    encoder = _open_image_encoder(f"vgg19:{tmp_path / 'vgg.safetensors'}")
    assert encoder.encode([Image.new("RGB", (30, 50), "red")]).shape == (1, 5)
    del state["features.0.bias"]
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(BackendError, match=r"features\.0\.bias"):
        Vgg19(tmp_path / "torn.safetensors").encode([Image.new("RGB", (4, 4))])


def test_vgg19_has_the_published_shape():
    with torch.device("meta"):
        layers = vgg19_layers()
    shapes = {name: tuple(value.shape) for name, value in layers.state_dict().items()}
    assert len(shapes) == 2 * (16 + 2)
    assert shapes["features.34.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 25088)
    assert shapes["classifier.3.weight"] == (4096, 4096)
    # The published 143,667,240 weights less the last layer's.
    assert sum(map(int, map(np.prod, shapes.values()))) == 143_667_240 - 4096 * 1000 - 1000


@pytest.mark.parametrize("name", ["vgg19:absent.safetensors", "./no-such-folder"])
def test_encoders_that_do_not_exist_are_refused(name):
    with pytest.raises(BackendError, match="needed an encoder named hashing"):
        _open_image_encoder(name)
