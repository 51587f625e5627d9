"""Tests of the demo backend: the packaged weights in the common engine."""

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


def test_answers_equal_those_of_the_huggingface_backend(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    folder = tiny_checkpoint("llava_next")
    demo = DemoBackend(weights=folder)
    general = HuggingFaceBackend(str(folder), dtype="float32")
    assert dict(demo.generate(PROMPTS)) == dict(general.generate(PROMPTS))


def test_the_precision_is_part_of_the_fingerprint(tiny_checkpoint: Callable[[str], Path]) -> None:
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
    ("features", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_auto_precision_is_bfloat16_on_processors_that_support_it(
    features: dict[str, bool],
    precision: Literal["float32", "bfloat16"],
    tiny_checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_checkpoint("llava_next")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: features)
    automatic = DemoBackend(weights=folder, precision="auto", device="cpu")
    assert automatic.fingerprint == DemoBackend(weights=folder, precision=precision).fingerprint


def test_the_weights_are_inside_the_package() -> None:
    assert weights_folder().parent.parent == Path(mllm_msr.__file__).parent


@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights have not been built")
def test_the_packaged_model_answers_and_scores() -> None:
    backend = DemoBackend()
    assert backend.capabilities.images
    completions = dict(backend.generate(PROMPTS))
    scores = dict(backend.score(PROMPTS, ("yes", "no")))
    assert all(completion.error is None for completion in completions.values())
    assert all(len(score.log_probs) == 2 for score in scores.values())


def test_fine_tuning_starts_from_the_weights_in_use(tmp_path: Path) -> None:
    assert DemoBackend.trainable_checkpoint() == str(weights_folder())
    assert DemoBackend.trainable_checkpoint(weights=tmp_path) == str(tmp_path)


def test_fine_tuned_weights_are_constructor_arguments(tmp_path: Path) -> None:
    arguments = {"device": "cpu"}
    lora = DemoBackend.with_adapter(arguments, tmp_path, "lora")
    assert lora == {"device": "cpu", "adapter": tmp_path}
    full = DemoBackend.with_adapter(arguments, tmp_path, "full")
    assert full == {"device": "cpu", "weights": tmp_path}
    assert arguments == {"device": "cpu"}


@pytest.mark.parametrize(
    ("device", "n_cores", "copies"),
    [("cpu", 1, 1), ("cpu", 2, 2), ("cpu", 64, 4), ("cuda:1", 64, 1)],
)
def test_a_service_runs_one_copy_per_core(
    device: str, n_cores: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: n_cores)
    assert DemoBackend.default_copies(device=device) == copies
