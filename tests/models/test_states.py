"""Tests of the states of a prefix: rows, cuts, positions, caches of all kinds of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.states import StateReader, States
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]


def make(*rows: float) -> States:
    keys = torch.tensor(rows).reshape(-1, 1, 1, 1) + torch.arange(3.0).reshape(1, 1, 3, 1)
    return States([(keys, -keys)], torch.tensor([int(row) for row in rows]))


def test_rows_are_selected_repeated_and_concatenated() -> None:
    both = States.concatenate([make(10, 20), make(30)])
    chosen = both.select([2, 0, 2])
    assert chosen.offsets.tolist() == [30, 10, 30]
    assert chosen.layers[0][0][:, 0, 0, 0].tolist() == [30, 10, 30]
    assert torch.equal(both.row(1).layers[0][1], make(20).layers[0][1])
    assert both.n_bytes == 2 * 3 * 3 * 4


def test_a_cut_keeps_the_first_tokens_and_frees_the_others() -> None:
    whole = make(10)
    cut = whole.cut(2)
    assert cut.layers[0][0].flatten().tolist() == [10, 11]
    assert cut.layers[0][0].untyped_storage().nbytes() == 8
    copy = whole.copy()
    copy.layers[0][0].zero_()
    assert whole.layers[0][0].flatten().tolist() == [10, 11, 12]


@pytest.mark.parametrize("family", ["llama", "gemma3", "lfm2", "qwen3_5"])
def test_a_cache_made_of_states_continues_the_prompt(
    family: str, tiny_checkpoint: Checkpoint
) -> None:
    model: Any = load_model(str(tiny_checkpoint(family)), device="cpu").model
    reader = StateReader(model)
    assert reader.can_cut == (family in {"llama", "gemma3"})
    prefixes = torch.randint(20, 200, (2, 70), generator=torch.Generator().manual_seed(0))
    suffixes = torch.randint(20, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        cache = reader.new_cache()
        model(input_ids=prefixes, past_key_values=cache, use_cache=True)
        states = reader.read(cache, torch.zeros(2, dtype=torch.long)).select([1, 0, 1])
        whole = torch.cat([prefixes[[1, 0, 1]], suffixes], dim=1)
        expected = model(input_ids=whole).logits[:, -9:]
        for _ in range(2):  # the model extends the cache, but not the states
            found = model(
                input_ids=suffixes,
                attention_mask=torch.ones_like(whole),
                past_key_values=reader.cache(states),
                use_cache=True,
            ).logits
            # The chunks in which linear attention is computed begin at other tokens.
            assert (found - expected).abs().max() < (2e-4 if family == "qwen3_5" else 1e-5)


def test_positions_after_an_image_are_those_of_the_model(
    tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    loaded = load_model(str(tiny_checkpoint("qwen2_5_vl")), device="cpu")
    renderer = Renderer(loaded.processor, supports_images=True)
    asked = [
        Prompt((Message("user", (*map(ImagePart, shown), TextPart("Well?"))),), max_new_tokens=1)
        for shown in (images[:1], (), images[1:3])
    ]
    rendered = [renderer.render(prompt) for prompt in asked]
    batch = renderer.collate(rendered, pad_side="right", with_answers=False)
    reader = StateReader(loaded.model)
    offsets = reader.offsets(batch)
    model: Any = loaded.model
    model(**batch)
    assert offsets.tolist() == model.model.rope_deltas[:, 0].tolist()
    assert offsets[0] < 0
    assert offsets[1] == 0
    text = renderer.collate(rendered[1:2], pad_side="right", with_answers=False)
    assert reader.offsets(text).tolist() == [0]
    assert not StateReader(
        load_model(str(tiny_checkpoint("llama")), device="cpu").model
    ).sets_positions
