"""Tests of the Hugging Face backend: effects of its arguments, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.errors import BackendError
from mllm_msr.types import Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]
PROMPTS = [
    Prompt((Message("user", (TextPart(f"Film {n}. Yes or no?"),)),), max_new_tokens=5)
    for n in range(3)
]


def test_capabilities_depend_on_the_checkpoint(tiny_checkpoint: Checkpoint) -> None:
    reads_images = {
        family: HuggingFaceBackend(str(tiny_checkpoint(family))).capabilities.images
        for family in ("smolvlm", "llama")
    }
    assert reads_images == {"smolvlm": True, "llama": False}


def test_an_adapter_changes_answers_and_fingerprint(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tiny_checkpoint("llama")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")

    plain = HuggingFaceBackend(str(folder))
    adapted = HuggingFaceBackend(str(folder), adapter=tmp_path / "adapter")

    scores = [dict(backend.score(PROMPTS, ("yes", "no"))) for backend in (plain, adapted)]
    for index in range(len(PROMPTS)):
        gap = scores[0][index].log_probs[0] - scores[1][index].log_probs[0]
        assert abs(gap) > 1e-4
    assert plain.fingerprint != adapted.fingerprint
    assert all(completion.error is None for _, completion in adapted.generate(PROMPTS))


def test_system_turns_are_part_of_the_prompt(tiny_checkpoint: Checkpoint) -> None:
    backend = HuggingFaceBackend(str(tiny_checkpoint("llama")))
    (_, without) = next(backend.score(PROMPTS[:1], ("yes", "no")))
    system = Message("system", (TextPart("Always say no."),))
    (_, with_system) = next(backend.score([Prompt((system, *PROMPTS[0].messages))], ("yes", "no")))
    assert with_system.prompt_tokens > without.prompt_tokens
    assert with_system.log_probs != without.log_probs


def test_the_number_of_threads_is_applied(tiny_checkpoint: Checkpoint) -> None:
    before = torch.get_num_threads()
    try:
        backend = HuggingFaceBackend(str(tiny_checkpoint("llama")), threads=1)
        assert torch.get_num_threads() == before
        backend.generate([])
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_missing_checkpoint_raises_an_error(tmp_path: Path) -> None:
    backend = HuggingFaceBackend(str(tmp_path / "nothing"))
    with pytest.raises(BackendError, match="cannot load the checkpoint"):
        backend.fingerprint  # noqa: B018 - the access raises
    with pytest.raises(BackendError, match="cannot load the checkpoint"):
        backend.generate([])


def test_fine_tuning_starts_from_the_checkpoint() -> None:
    assert HuggingFaceBackend.trainable_checkpoint(checkpoint="org/model") == "org/model"
    assert HuggingFaceBackend.trainable_checkpoint() is None


def test_fine_tuned_weights_are_constructor_arguments(tmp_path: Path) -> None:
    arguments = {"checkpoint": "org/model"}
    lora = HuggingFaceBackend.with_adapter(arguments, tmp_path, "lora")
    assert lora == {"checkpoint": "org/model", "adapter": tmp_path}
    full = HuggingFaceBackend.with_adapter(arguments, tmp_path, "full")
    assert full == {"checkpoint": str(tmp_path)}
