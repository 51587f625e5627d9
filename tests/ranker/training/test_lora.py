from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny_checkpoints
from mllm_msr.errors import NonFiniteLossError, SettingsError, TrainingError
from mllm_msr.models.loading import load_model
from mllm_msr.ranker.training.lora import (
    adapted_layers,
    add_lora,
    decoder_prefix,
    image_token_ids,
    language_layers,
    learns_language_only,
    load_trainable,
    save_weights,
    swapped_weights,
    trainable_tensors,
    unfreeze_language,
    unfreeze_upper_layers,
)

Checkpoint = Callable[[str], Path]

# Prefix of each family's language model, independent of the code under test.
LANGUAGE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "llava_next": "model.language_model.",
        "qwen2_5_vl": "model.language_model.",
        "smolvlm": "model.text_model.",
        "gemma3": "model.language_model.",
        "llama": "model.",
    }
)


PROJECTIONS: Final = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
)


def loaded(folder: Path) -> Any:
    return load_model(str(folder), dtype="float32", device="cpu")


def lora(model: torch.nn.Module, **options: Any) -> torch.nn.Module:
    return add_lora(model, rank=2, alpha=4, dropout=0.0, **options)


def perturb(model: torch.nn.Module) -> None:
    """Change every trainable weight, as training does."""
    for tensor in trainable_tensors(model).values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) * 0.1)


@pytest.mark.parametrize("family", tiny_checkpoints.FAMILIES)
def test_lora_is_added_to_the_language_model_only(tiny_checkpoint: Checkpoint, family: str) -> None:
    wrapped = lora(loaded(tiny_checkpoint(family)).model)
    names = adapted_layers(wrapped)
    # Two layers of q, k, v, o, gate, up, down.
    assert len(names) == 14
    assert all(name.startswith(LANGUAGE[family]) for name in names)
    assert all("lora_" in name for name in trainable_tensors(wrapped))
    assert learns_language_only(wrapped)


@pytest.mark.parametrize(
    ("family", "own", "left_out"),
    [
        ("qwen3_5", {"in_proj_qkv", "in_proj_z", "out_proj"}, {"in_proj_a", "in_proj_b"}),
        ("gemma4", set(), {"per_layer_input_gate", "per_layer_projection"}),
        ("lfm2", {"in_proj", "out_proj", "w1", "w2", "w3"}, set()),
        ("glm4v", {"gate_up_proj"}, set()),
        ("mllama", set(), set()),
    ],
)
def test_only_projections_are_adapted_by_default(
    tiny_checkpoint: Checkpoint, family: str, own: set[str], left_out: set[str]
) -> None:
    model = loaded(tiny_checkpoint(family)).model
    every = {name.rpartition(".")[2] for name in language_layers(model)}
    adapted = {name.rpartition(".")[2] for name in adapted_layers(lora(model))}
    assert own <= adapted
    assert adapted <= own | PROJECTIONS
    assert {"q_proj", "k_proj", "v_proj"} <= adapted
    assert left_out <= every - adapted


def test_the_output_layer_of_a_decoder_that_contains_it_is_never_adapted(
    tiny_checkpoint: Checkpoint,
) -> None:
    config = transformers.AutoConfig.from_pretrained(tiny_checkpoint("llama4"))
    model = transformers.Llama4ForConditionalGeneration(config)
    names = {name.rpartition(".")[2] for name in language_layers(model)}
    assert "lm_head" not in names
    assert model.get_submodule(decoder_prefix(model)) is model.get_decoder()
    assert {name.rpartition(".")[2] for name in adapted_layers(lora(model))} == PROJECTIONS


@pytest.mark.parametrize("family", tiny_checkpoints.VISION_FAMILIES)
def test_all_linear_adds_lora_to_the_vision_tower(tiny_checkpoint: Checkpoint, family: str) -> None:
    wrapped = lora(loaded(tiny_checkpoint(family)).model, target="all-linear")
    outside = [n for n in adapted_layers(wrapped) if not n.startswith(LANGUAGE[family])]
    assert any("vis" in name for name in outside)
    assert not any("lm_head" in name for name in outside)
    assert not learns_language_only(wrapped)


def test_target_names_select_layers_of_the_language_model(tiny_checkpoint: Checkpoint) -> None:
    wrapped = lora(loaded(tiny_checkpoint("llava_next")).model, target=("q_proj", "v_proj"))
    names = adapted_layers(wrapped)
    assert len(names) == 4
    assert all(name.startswith("model.language_model.") for name in names)


def test_unknown_target_names_are_rejected(tiny_checkpoint: Checkpoint) -> None:
    model = loaded(tiny_checkpoint("llama")).model
    with pytest.raises(
        SettingsError, match=r"no linear layer 'wq' \(train\.target=.*\)\. Available: down_proj, "
    ):
        lora(model, target=("wq", "v_proj"))
    with pytest.raises(SettingsError, match=r"No layer is named \(train\.target=\(\)\)"):
        lora(model, target=())


def test_model_without_a_language_model_is_rejected() -> None:
    with pytest.raises(TrainingError, match="Linear does not name its language model"):
        language_layers(torch.nn.Linear(2, 2))


def test_initial_matrices_are_a_function_of_the_seed(tiny_checkpoint: Checkpoint) -> None:
    def matrices(seed: int, init: Any = "default") -> dict[str, torch.Tensor]:
        model = loaded(tiny_checkpoint("llama")).model
        return trainable_tensors(lora(model, seed=seed, init=init))

    one, same, other, gaussian = matrices(1), matrices(1), matrices(2), matrices(1, "gaussian")
    first = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[first], same[first])
    assert not torch.equal(one[first], other[first])
    assert not torch.equal(one[first], gaussian[first])


@pytest.mark.parametrize("family", ["llava_next", "gemma3"])
def test_full_training_freezes_tower_and_projector(
    tiny_checkpoint: Checkpoint, family: str
) -> None:
    model = unfreeze_language(loaded(tiny_checkpoint(family)).model)
    names = set(trainable_tensors(model))
    assert names
    assert all(n.startswith((LANGUAGE[family], "lm_head")) for n in names)
    frozen = {n for n, w in model.named_parameters() if not w.requires_grad}
    assert any("vision_tower" in n for n in frozen)
    assert any("projector" in n for n in frozen)
    assert learns_language_only(model)


def test_swapped_weights_are_restored(tiny_checkpoint: Checkpoint) -> None:
    model = lora(loaded(tiny_checkpoint("llama")).model)
    before = {name: tensor.clone() for name, tensor in trainable_tensors(model).items()}
    others = {name: torch.full_like(tensor, 0.5) for name, tensor in before.items()}
    with swapped_weights(model, others):
        assert all((tensor == 0.5).all() for tensor in trainable_tensors(model).values())
    after = trainable_tensors(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(TrainingError, match="1 weights whose names or shapes differ"):
        load_trainable(model, {"unknown": torch.ones(1)})


def test_saved_adapter_gives_the_logits_of_the_trained_model(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama")
    base = loaded(folder)
    model = lora(base.model)
    perturb(model)
    ids = torch.tensor([[5, 9, 200, 41]])
    expected = model.eval()(input_ids=ids).logits
    save_weights(model, base.processor, tmp_path / "adapter", method="lora", step=1)
    assert sorted(
        p.suffix for p in tmp_path.rglob("*.*") if p.suffix in {".safetensors", ".bin"}
    ) == [".safetensors"]
    tuned = load_model(str(folder), dtype="float32", device="cpu", adapter=tmp_path / "adapter")
    assert torch.allclose(tuned.model(input_ids=ids).logits, expected, atol=1e-5)
    plain = loaded(folder).model(input_ids=ids).logits
    assert not torch.allclose(plain, expected, atol=1e-2)


def test_full_weights_are_a_complete_checkpoint(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    base = loaded(tiny_checkpoint("llava_next"))
    model = unfreeze_language(base.model)
    perturb(model)
    save_weights(model, base.processor, tmp_path / "model", method="full", step=1)
    again = loaded(tmp_path / "model")
    own = trainable_tensors(model)
    found = trainable_tensors(unfreeze_language(again.model))
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)


def test_weights_with_nan_are_never_saved(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = loaded(tiny_checkpoint("llama"))
    model = lora(base.model)
    save_weights(model, None, tmp_path / "adapter", method="lora", step=1)
    intact = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    next(iter(trainable_tensors(model).values())).fill_(float("inf"))
    with pytest.raises(NonFiniteLossError, match="step 7"):
        save_weights(model, None, tmp_path / "adapter", method="lora", step=7)
    kept = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(intact[name], kept[name]) for name in intact)


@pytest.mark.parametrize(
    ("family", "placeholder"),
    [
        ("llava_next", "<image>"),
        ("qwen2_5_vl", "<|image_pad|>"),
        ("smolvlm", "<image>"),
        ("gemma3", "<image_soft_token>"),
        ("llama", None),
    ],
)
def test_image_placeholder_ids_are_found(
    tiny_checkpoint: Checkpoint, family: str, placeholder: str | None
) -> None:
    base = loaded(tiny_checkpoint(family))
    tokenizer = getattr(base.processor, "tokenizer", base.processor)
    expected = {tokenizer.convert_tokens_to_ids(placeholder)} if placeholder else set()
    assert image_token_ids(base.model) == expected


@pytest.mark.parametrize("family", ["llama", "llava_next", "smolvlm"])
def test_only_upper_layers_are_trained(family: str, tiny_checkpoint: Checkpoint) -> None:
    model = loaded(tiny_checkpoint(family)).model
    n_layers = len(model.get_decoder().layers)
    assert unfreeze_upper_layers(model, 1) is model
    names = set(trainable_tensors(model))
    prefix = f"{LANGUAGE[family]}layers."
    layers = {name for name in names if name.startswith(prefix)}
    assert layers
    assert all(name.startswith(f"{prefix}{n_layers - 1}.") for name in layers)
    others = {f"{LANGUAGE[family]}norm.weight"}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert names - layers == (others if tied else others | {"lm_head.weight"})
    # Without embeddings that learn, no gradient reaches the lower layers.
    output = model(input_ids=torch.tensor([[5, 9, 200, 41]]), output_hidden_states=True)
    grads = [state.requires_grad for state in output.hidden_states]
    assert grads[:n_layers] == [False] * n_layers
    with pytest.raises(SettingsError, match=f"is 99, but the language model has {n_layers} layers"):
        unfreeze_upper_layers(model, 99)


def test_tied_embeddings_are_frozen(tiny_checkpoint: Checkpoint) -> None:
    model = loaded(tiny_checkpoint("llama")).model
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    unfreeze_upper_layers(model, 1)
    assert not model.get_output_embeddings().weight.requires_grad
