"""Texts as vectors: unit length, silence as zero, likeness, independence of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models.text_encoders import HashingEncoder, TransformersEncoder, text_encoder

CORPUS = [
    "A calm film of a lantern in red colours.",
    "A loud film of a boat in green colours.",
    "A calm song about a lantern.",
    "A loud song about a boat.",
]


@pytest.mark.parametrize("corpus", [CORPUS, [f"{t} part {i}" for i in range(60) for t in CORPUS]])
def test_alike_texts_are_near_and_rows_have_length_one(corpus: list[str]) -> None:
    encoder = HashingEncoder(corpus, width=8 if len(corpus) > 8 else 128)
    vectors = encoder.encode([*CORPUS, "lanterns? a LANTERN, calm!"])
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    likeness = vectors[:4] @ vectors[4]
    assert min(likeness[0], likeness[2]) > max(likeness[1], likeness[3])


def test_a_text_without_known_words_says_nothing() -> None:
    encoder = HashingEncoder(CORPUS)
    assert not encoder.encode(["", "...", "xyzzy"]).any()
    assert HashingEncoder([]).encode(["a film"]).shape == (1, 0)


def test_vectors_depend_neither_on_the_batch_nor_on_the_process() -> None:
    one, two = HashingEncoder(CORPUS), HashingEncoder(CORPUS)
    together = one.encode(CORPUS)
    alone = np.concatenate([two.encode([text]) for text in CORPUS])
    assert together @ together.T == pytest.approx(alone @ alone.T, abs=1e-5)


def test_a_transformers_model_is_the_mean_of_its_states_over_real_tokens(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    import torch

    encoder = TransformersEncoder(str(tiny_checkpoint("llama")))
    vectors = encoder.encode(["a film", "a much longer text about a film and a boat"])
    inputs = encoder._tokenizer(["a film"], return_tensors="pt")
    with torch.inference_mode():
        states = encoder._model(**inputs).last_hidden_state[0]
    mean = states.mean(dim=0).float().numpy()
    assert vectors[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_names() -> None:
    assert text_encoder("hashing", CORPUS).fingerprint == "hashing:4"
    with pytest.raises(BackendError, match=r"nowhere.*hashing"):
        text_encoder("./nowhere", CORPUS)
