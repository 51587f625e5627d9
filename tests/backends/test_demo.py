"""The embedded backend: the packaged weights through the common engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import mllm_msr
from mllm_msr.backends.demo import DemoBackend
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.types import Message, Prompt, TextPart

PROMPTS = [
    Prompt((Message("user", (TextPart(f"Film {n}. Yes or no?"),)),), max_new_tokens=5)
    for n in range(5)
]


def test_it_answers_as_the_general_backend_does(tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("llava_next")
    embedded = DemoBackend(weights=folder)
    general = HuggingFaceBackend(str(folder), dtype="float32")
    assert dict(embedded.generate(PROMPTS)) == dict(general.generate(PROMPTS))


def test_the_arithmetic_is_part_of_the_fingerprint(tiny_checkpoint: Callable[[str], Path]) -> None:
    folder = tiny_checkpoint("llava_next")
    exact, fast = (
        DemoBackend(weights=folder),
        DemoBackend(weights=folder, precision="bfloat16"),
    )
    assert exact.fingerprint != fast.fingerprint
    scores = [dict(backend.score(PROMPTS, ("yes", "no"))) for backend in (exact, fast)]
    assert scores[0] != scores[1]
    for index in range(len(PROMPTS)):
        assert scores[0][index].log_probs == pytest.approx(scores[1][index].log_probs, abs=0.1)


@pytest.mark.parametrize(
    ("able", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_auto_is_bfloat16_where_the_processor_computes_in_it(
    able: dict[str, bool],
    precision: Literal["float32", "bfloat16"],
    tiny_checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_checkpoint("llava_next")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    chosen = DemoBackend(weights=folder, precision="auto", device="cpu")
    assert chosen.fingerprint == DemoBackend(weights=folder, precision=precision).fingerprint


def test_the_packaged_weights_lie_inside_the_package() -> None:
    assert weights_folder().parent.parent == Path(mllm_msr.__file__).parent


@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights are not built yet")
def test_the_packaged_model_reads_images_and_answers() -> None:
    backend = DemoBackend()
    assert backend.capabilities.images
    completions = dict(backend.generate(PROMPTS))
    scores = dict(backend.score(PROMPTS, ("yes", "no")))
    assert all(completion.error is None for completion in completions.values())
    assert all(len(score.log_probs) == 2 for score in scores.values())
