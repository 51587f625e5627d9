"""Performance regression tests that count operations on fixed workloads.

Unlike elapsed time, the numbers of image tiles, prefill tokens and decoding steps do not depend on
the load of the machine. If a change reduces a number, lower its limit here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr import tables
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.inference.engine.generation import KeyValueCache
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.summarization.preferences import infer_preferences
from mllm_msr.types import ImagePart, Item, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]

TASTES = ("calm films", "golden lanterns on stripes", "one product")


@dataclass
class Work:
    """Operations of a model."""

    tiles: int = 0  # image tiles through the vision tower
    prefilled: int = 0  # prompt tokens through the decoder, including padding
    steps: int = 0  # decoding steps, each with at least one token per row
    decoded: int = 0  # tokens of these steps, including rejected draft tokens

    def is_within(self, limits: Work) -> bool:
        """Return whether any count is positive and no count exceeds its limit."""
        counts, bounds = astuple(self), astuple(limits)
        return any(counts) and all(n <= most for n, most in zip(counts, bounds, strict=True))


def observe(model: Any) -> Work:
    """Return the operations of a model, which are counted from now on."""
    work = Work()

    def decoder(_: Any, args: Any, kwargs: Any) -> None:
        given = kwargs.get("input_ids")
        given = given if given is not None else kwargs["inputs_embeds"]
        rows, length = given.shape[:2]
        if isinstance(kwargs["past_key_values"], KeyValueCache):
            work.steps += 1
            work.decoded += rows * length
        else:
            work.prefilled += rows * length

    def tower(_: Any, args: Any, output: Any) -> None:
        work.tiles += len(output.last_hidden_state)

    model.get_decoder().register_forward_pre_hook(decoder, with_kwargs=True)
    if hasattr(model.model, "vision_tower"):
        model.model.vision_tower.register_forward_hook(tower)
    return work


def pairs(images: Sequence[Path]) -> list[Example]:
    """Return examples of six users with four items each, ordered by user."""
    return [
        Example(
            0,
            "test",
            "uniform",
            f"u{user}",
            3,
            f"i{item}",
            int(item == user % 4),
            build_prompt(
                f"The user appears to have a preference for {TASTES[user % 3]} {user}.",
                Item(f"i{item}", f"Title {item}", image=images[item]),
                item_type="video",
            ),
        )
        for user in range(6)
        for item in range(4)
    ]


@pytest.fixture
def loaded(tiny_checkpoint: Checkpoint) -> LoadedCheckpoint:
    return load_model(str(tiny_checkpoint("llava_next")), device="cpu")


def test_scoring(loaded: LoadedCheckpoint, images: Sequence[Path]) -> None:
    work = observe(loaded.model)
    prompts = [example.prompt for example in pairs(images)]
    scores = dict(Engine(loaded, batch_size=8).score(prompts, ("yes", "no")))
    whole = sum(score.prompt_tokens for score in scores.values())
    assert whole == 3960
    assert work.is_within(Work(tiles=18, prefilled=1532))


def test_generation(loaded: LoadedCheckpoint, images: Sequence[Path]) -> None:
    work = observe(loaded.model)
    prompts = [
        Prompt(
            (Message("user", (ImagePart(images[n % 4]), TextPart("Describe the picture."))),),
            max_new_tokens=40 if n == 0 else 5,
        )
        for n in range(12)
    ]
    completions = dict(Engine(loaded, batch_size=4, speculative_tokens=0).generate(prompts))
    assert len(completions) == 12
    # The longest answer determines the number of steps, and finished rows are removed.
    assert work.is_within(Work(tiles=26, prefilled=467, steps=39, decoded=40 + 11 * 5 - 12))


def test_speculative_decoding(loaded: LoadedCheckpoint) -> None:
    prompts = [
        Prompt((Message("user", (TextPart(f"Describe film {n % 3}."),)),), max_new_tokens=21)
        for n in range(6)
    ]
    engine = Engine(loaded, batch_size=6)
    first = dict(engine.generate(prompts))
    work = observe(loaded.model)
    assert dict(engine.generate(prompts)) == first
    # Without drafts: 20 steps and 120 tokens.
    assert work.is_within(Work(prefilled=72, steps=6, decoded=136))


def test_equal_blocks_of_users_are_prompted_once(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint = str(tiny_checkpoint("llama"))
    model = HuggingFaceBackend(checkpoint, device="cpu", speculative_tokens=0)
    work = observe(model._open_engine()._model)
    items = [f"i{n}" for n in range(6)]
    summaries = pl.DataFrame(
        [
            {
                "item_id": item,
                "text_summary": f"A film {item}.",
                "image_summary": None,
                "summary": f"A film {item}.",
                "image_status": "absent",
                "flags": "",
            }
            for item in items
        ],
        schema=dict(tables.SUMMARIES),
    )
    # Four users have the same first block, and two of them the same second block.
    seconds = ([3, 4, 5], [3, 4, 5], [5, 4, 3], [4])
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": position, "position": position}
        for user, second in enumerate(seconds)
        for position, item in enumerate([0, 1, 2, *second])
    ]
    histories = pl.DataFrame(rows, schema=dict(tables.INTERACTIONS))
    backend = CachedBackend(model, ResponseCache(tmp_path / "responses.sqlite"))
    infer_preferences(histories, summaries, backend, item_type="film", words=2)
    assert (backend.misses, backend.hits) == (4, 4)
    assert work.is_within(Work(prefilled=594, steps=10, decoded=20))


def test_training(
    tiny_checkpoint: Checkpoint,
    images: Sequence[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lightning")
    from mllm_msr.ranker.training import trainer

    observed: list[Work] = []

    def load(*args: Any, **kwargs: Any) -> LoadedCheckpoint:
        loaded = load_model(*args, **kwargs)
        observed.append(observe(loaded.model))
        return loaded

    monkeypatch.setattr(trainer, "load_model", load)
    trainer.train(
        pairs(images),
        [],
        checkpoint=str(tiny_checkpoint("llava_next")),
        output=tmp_path,
        settings=TrainSettings(batch_size=6, epochs=2, precision="fp32", dropout=0.0),
    )
    (work,) = observed
    assert work.is_within(Work(tiles=18, prefilled=5343))
