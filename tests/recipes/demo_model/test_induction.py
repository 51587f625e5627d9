"""Initial induction heads: an untrained model copies."""

import pytest
import torch

from recipes.demo_model.architecture import make_config, make_model
from recipes.demo_model.induction import can_copy


@pytest.fixture(scope="module")
def untrained():
    config = make_config(vocabulary=500, layers=2, vision_layers=1, vision_width=32)
    return make_model(config, seed=1)


def copy_accuracy(model, length):
    generator = torch.Generator().manual_seed(0)
    once = torch.randint(5, 500, (8, length), generator=generator)
    with torch.no_grad():
        logits = model(input_ids=once.repeat(1, 2)).logits[:, length:-1]
    return float((logits.argmax(-1) == once[:, 1:]).float().mean())


@pytest.mark.parametrize("length", [6, 20])
def test_an_untrained_model_repeats_random_tokens(untrained, length):
    assert copy_accuracy(untrained, length) > 0.3  # chance level: 0.002


def test_one_head_attends_to_the_previous_token(untrained):
    ids = torch.randint(5, 500, (2, 30), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        attention = untrained(input_ids=ids, output_attentions=True).attentions[0]
    previous = attention[:, 0].diagonal(offset=-1, dim1=-2, dim2=-1)
    assert previous.min() > 0.9


def test_copying_needs_two_layers_and_four_heads():
    assert can_copy(make_config(vocabulary=500).text_config)
    assert not can_copy(make_config(vocabulary=500, layers=1).text_config)
    assert not can_copy(make_config(vocabulary=500, heads=2).text_config)
