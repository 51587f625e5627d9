"""Soft tokens: their ids, the projector, and how models read and save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.vector_tokens import (
    FILE,
    FIRST_ID,
    VectorProjector,
    add_vector_projector,
    find_vector_projector,
    load_vector_projector,
    save_vector_projector,
    soft_token_id,
    without_vector_projector,
)
from mllm_msr.types import Message, Prompt, TextPart, VectorPart

Checkpoint = Callable[[str], Path]

USER, ITEM = (0.5, -1.0, 2.0), (1.0, 0.25, -0.5, 0.1)
PARTS = (
    VectorPart("user", (USER,)),
    VectorPart("item", (ITEM,)),
    VectorPart("match", (USER, ITEM)),
    VectorPart("item"),
)


def prompt(*parts: VectorPart, text: str = "A lantern") -> Prompt:
    return Prompt((Message("user", (TextPart(text), *parts, TextPart(" or not?"))),))


def with_projector(folder: Path) -> Any:
    """Return a loaded model with a projector."""
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    add_vector_projector(loaded.model, n_dims=3, seed=0)
    return loaded


def renderer_of(loaded: Any) -> Renderer:
    projector = find_vector_projector(loaded.model)
    return Renderer(loaded.processor, supports_images=loaded.supports_images, projector=projector)


@torch.no_grad()
def logits(loaded: Any, *prompts: Prompt) -> torch.Tensor:
    """Return the last logits of each prompt."""
    renderer = renderer_of(loaded)
    rows = [renderer.render(one) for one in prompts]
    inputs = renderer.collate(rows, pad_side="right", with_answers=False)
    last = inputs["attention_mask"].sum(dim=1) - 1
    return loaded.model(**inputs).logits[torch.arange(len(rows)), last]


def test_ids_identify_vectors() -> None:
    ids = [soft_token_id(part) for part in PARTS]
    assert len(set(ids)) == len(PARTS)
    assert min(ids) >= FIRST_ID
    assert ids == [soft_token_id(VectorPart(part.kind, part.vectors)) for part in PARTS]
    # Fixed, because ids order prompts and must not differ between processes.
    assert ids[3] == 1155584444516124543


def test_embeddings_are_in_the_order_of_the_ids() -> None:
    projector = VectorProjector(3, 8, scale=0.5)
    projector.hold(PARTS)
    ids = torch.tensor([soft_token_id(part) for part in PARTS])
    for order in ([0, 1, 2, 3], [3, 2, 0, 1], [1, 1, 3]):
        found = projector.embed(ids[order])
        for row, index in zip(found, order, strict=True):
            (alone,) = projector.embed(ids[index : index + 1])
            assert torch.allclose(row, alone, atol=1e-6)
    unknown = projector.embed(ids[3:])[0]
    assert torch.equal(unknown, 0.5 * projector.unknown["item"])


def test_every_weight_has_a_gradient_whether_items_are_known_or_not() -> None:
    for parts in (PARTS[:3], (VectorPart("user"), VectorPart("item"), VectorPart("match"))):
        projector = VectorProjector(3, 8)
        projector.hold(parts)
        ids = torch.tensor([soft_token_id(part) for part in parts])
        projector.embed(ids).sum().backward()
        assert all(weight.grad is not None for weight in projector.parameters())


def test_soft_tokens_are_as_large_as_those_of_text(tiny_checkpoint: Checkpoint) -> None:
    loaded = with_projector(tiny_checkpoint("llama"))
    projector = find_vector_projector(loaded.model)
    assert projector is not None
    drawn = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).tolist()
    parts = [VectorPart("user", (tuple(row),)) for row in drawn]
    projector.hold(parts)
    with torch.no_grad():
        found = projector.embed(torch.tensor([soft_token_id(part) for part in parts])).std()
    embeddings = loaded.model.get_input_embeddings().weight.std()
    assert 0.3 < found / embeddings < 3


@pytest.mark.parametrize(
    "family",
    ["llama", "llava", "qwen3", "qwen2_5_vl", "gemma3", "gemma4", "smolvlm", "glm4v", "qwen3_5"],
)
def test_a_model_reads_vectors_and_text_alone_as_before(
    family: str, tiny_checkpoint: Checkpoint
) -> None:
    plain = load_model(str(tiny_checkpoint(family)), dtype="float32", device="cpu")
    loaded = with_projector(tiny_checkpoint(family))
    assert torch.equal(logits(loaded, prompt()), logits(plain, prompt()))
    both = logits(loaded, prompt(PARTS[0], PARTS[1]), prompt(PARTS[0], PARTS[3], text="Owl"))
    for row, one in enumerate((prompt(PARTS[0], PARTS[1]), prompt(*PARTS[::3], text="Owl"))):
        assert torch.allclose(both[row], logits(loaded, one)[0], atol=1e-4)
    other = prompt(VectorPart("user", ((0.5, -1.0, 2.5),)), PARTS[1])
    assert not torch.allclose(both[0], logits(loaded, other)[0], atol=1e-4)


def test_text_cannot_contain_the_token_that_stands_for_vectors(
    tiny_checkpoint: Checkpoint,
) -> None:
    loaded = with_projector(tiny_checkpoint("llama"))
    renderer = renderer_of(loaded)
    mark = renderer._template.vector_token
    for text in (mark, f"{mark}{mark}", "\ue004", f"{mark[:2]}\ue004{mark[2:]}"):
        row = renderer.render(prompt(PARTS[0], text=text))
        assert [number >= FIRST_ID for number in row.input_ids].count(True) == 1


def test_a_model_without_a_projector_rejects_vectors(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), dtype="float32", device="cpu")
    with pytest.raises(CapabilityError, match=r"fine-tuned with recommend\.collaborative"):
        renderer_of(loaded).render(prompt(PARTS[0]))


def test_a_saved_projector_gives_the_same_logits(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    loaded = with_projector(tiny_checkpoint("llama"))
    save_vector_projector(loaded.model, tmp_path)
    other = load_model(str(tiny_checkpoint("llama")), dtype="float32", device="cpu")
    load_vector_projector(other.model, tmp_path)
    assert torch.equal(logits(loaded, prompt(*PARTS)), logits(other, prompt(*PARTS)))


def test_weights_are_saved_without_the_projector(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    loaded = with_projector(tiny_checkpoint("llama"))
    expected = logits(loaded, prompt(*PARTS))
    with without_vector_projector(loaded.model):
        assert find_vector_projector(loaded.model) is None
        loaded.model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert names.keys() == load_file(tiny_checkpoint("llama") / "model.safetensors").keys()
    assert torch.equal(logits(loaded, prompt(*PARTS)), expected)


def test_files_that_do_not_fit_are_rejected(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), dtype="float32", device="cpu")
    load_vector_projector(loaded.model, tmp_path)  # there is no file
    assert find_vector_projector(loaded.model) is None
    save_file(VectorProjector(3, 7).state_dict(), tmp_path / FILE)
    with pytest.raises(BackendError, match="not a projector of vectors for this model"):
        load_vector_projector(loaded.model, tmp_path)
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(BackendError, match="not a projector of vectors for this model"):
        load_vector_projector(loaded.model, tmp_path)


def test_a_projector_is_trained_further_or_rejected(tiny_checkpoint: Checkpoint) -> None:
    loaded = with_projector(tiny_checkpoint("llama"))
    projector = find_vector_projector(loaded.model)
    add_vector_projector(loaded.model, n_dims=3, seed=1)
    assert find_vector_projector(loaded.model) is projector
    with pytest.raises(BackendError, match=r"vectors of 3 numbers, .* have 4"):
        add_vector_projector(loaded.model, n_dims=4, seed=0)
