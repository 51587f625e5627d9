"""Tests of the inputs of batches: features of images that replace their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mllm_msr.inference.engine import batch_inputs
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.ranker.examples import build_prompt
from mllm_msr.types import ImagePart, Item, Message, Prompt, TextPart

# A family that accepts features, but does not share prefixes.
FAMILY = "ovis2"


@pytest.fixture
def loaded(tiny_checkpoint: Callable[[str], Path]) -> LoadedCheckpoint:
    return load_model(str(tiny_checkpoint(FAMILY)), device="cpu")


def ask(user: int, *images: Path) -> Prompt:
    parts = (*map(ImagePart, images), TextPart(f"Calm films for user {user}. Yes or no?"))
    return Prompt((Message("user", parts),), max_new_tokens=1)


def count_encoded(loaded: LoadedCheckpoint) -> list[int]:
    """Return a list that receives the number of pixel tensors of every call of the tower."""
    counts: list[int] = []
    loaded.model.model.vision_tower.register_forward_hook(
        lambda _, given, __: counts.append(len(given[0]))
    )
    return counts


def test_scoring_encodes_each_image_once(
    loaded: LoadedCheckpoint, images: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [ask(user, image) for user in range(4) for image in images[:2]]
    prompts += [ask(0), ask(1, images[0], images[1])]
    counts = count_encoded(loaded)
    engine = Engine(loaded, batch_size=3)
    found = dict(engine.score(prompts, ("yes", "no")))
    assert all(score.error is None for score in found.values())
    n_encoded = len(counts)
    list(engine.score(prompts, ("yes", "no")))
    assert len(counts) == n_encoded  # later calls encode nothing

    monkeypatch.setattr(batch_inputs.VisionCache, "supports", lambda _: False)
    counts.clear()
    plain = Engine(loaded, batch_size=3)
    expected = dict(plain.score(prompts, ("yes", "no")))
    assert sum(counts) > 0
    for index, score in expected.items():
        assert found[index].log_probs == pytest.approx(score.log_probs, abs=1e-5)
        assert found[index].prompt_tokens == score.prompt_tokens


def test_images_that_follow_the_user_are_encoded_once(
    tiny_checkpoint: Callable[[str], Path], images: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(str(tiny_checkpoint("llava_next")), device="cpu")
    prompts = [
        build_prompt(
            f"The user appears to have a preference for calm films{' on stripes' * user}.",
            Item(f"{n}", f"title {n}", image=image),
            item_type="video",
            order="user-first",
        )
        for user in range(3)
        for n, image in enumerate([*images[:4], None])
    ]
    counts = count_encoded(loaded)
    engine = Engine(loaded, batch_size=6)
    found = dict(engine.score(prompts, ("yes", "no")))
    # The images of a batch are encoded together.
    n_tiles = sum(counts)
    assert len(counts) < 4
    assert dict(engine.score(prompts, ("yes", "no"))) == found
    assert sum(counts) == n_tiles

    monkeypatch.setattr(batch_inputs.VisionCache, "supports", lambda _: False)
    for index, score in Engine(loaded, batch_size=6).score(prompts, ("yes", "no")):
        assert found[index].log_probs == pytest.approx(score.log_probs, abs=1e-5)
    assert sum(counts) == (1 + 3) * n_tiles  # once with features, and once for each user


def test_features_are_removed_with_the_caches(
    loaded: LoadedCheckpoint, images: Sequence[Path]
) -> None:
    engine = Engine(loaded)
    counts = count_encoded(loaded)
    prompts = [ask(user, images[0]) for user in range(3)]
    first = dict(engine.score(prompts, ("yes", "no")))
    n_calls = len(counts)
    engine.clear_caches()
    assert dict(engine.score(prompts, ("yes", "no"))) == first
    assert len(counts) == 2 * n_calls
