"""Tiny random checkpoints of text and image encoders."""

from __future__ import annotations

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ("[PAD]", "[UNK]", "[CLS]", "river", "boats", "at", "dawn")
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def vocabulary():
    return WORDS


@pytest.fixture
def bert(tmp_path):
    """Write a BERT with 16 positions and a vocabulary of seven words, and return its folder."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    words = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    ).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def image_checkpoint(tmp_path):
    """Return a function that writes an image encoder of a family ("vit", "resnet", "clip")."""

    def build(family):
        torch.manual_seed(0)
        vision = {**SMALL, "image_size": 8, "patch_size": 4}
        if family == "vit":
            model = transformers.ViTModel(transformers.ViTConfig(**vision))
        elif family == "resnet":
            config = transformers.ResNetConfig(
                embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
            )
            model = transformers.ResNetModel(config)
        else:
            config = transformers.CLIPConfig(
                text_config={**SMALL, "vocab_size": 9}, vision_config=vision, projection_dim=6
            )
            model = transformers.CLIPModel(config)
        model.save_pretrained(tmp_path / family)
        square = {"height": 8, "width": 8}
        processor = (
            transformers.CLIPImageProcessorPil
            if family == "clip"
            else transformers.ViTImageProcessorPil
        )
        processor(size=square, crop_size=square).save_pretrained(tmp_path / family)
        return tmp_path / family

    return build
