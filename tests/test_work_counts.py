"""Performance regression tests by counting: fixed workloads must not take more work than before.

Wall-clock time depends on the load of a machine. The number of image tiles, prefill tokens and
decoding steps does not. If a change reduces a number, reduce it here.
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
from mllm_msr.config.settings import TrainSettings
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
    """Amount of computation of a model."""

    tiles: int = 0  # image tiles through the vision tower
    read: int = 0  # prompt tokens through the decoder, including padding
    steps: int = 0  # decoding steps, each at least one token per row
    written: int = 0  # tokens of those steps, including rejected draft tokens

    def is_within(self, recorded: Work) -> bool:
        """Return whether some count is positive and none exceeds the recorded one."""
        counts, bounds = astuple(self), astuple(recorded)
        return any(counts) and all(n <= most for n, most in zip(counts, bounds, strict=True))


def observe(model: Any) -> Work:
    work = Work()

    def decoder(_: Any, args: Any, kwargs: Any) -> None:
        given = kwargs.get("input_ids")
        given = given if given is not None else kwargs["inputs_embeds"]
        rows, length = given.shape[:2]
        if isinstance(kwargs["past_key_values"], KeyValueCache):
            work.steps += 1
            work.written += rows * length
        else:
            work.read += rows * length

    def tower(_: Any, args: Any, output: Any) -> None:
        work.tiles += len(output.last_hidden_state)

    model.get_decoder().register_forward_pre_hook(decoder, with_kwargs=True)
    if hasattr(model.model, "vision_tower"):
        model.model.vision_tower.register_forward_hook(tower)
    return work


def pairs(images: Sequence[Path]) -> list[Example]:
    """Return examples of each of six users with each of four items, user by user."""
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
    assert work.is_within(Work(tiles=18, read=1532))


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
    # As many steps as the longest answer needs, and no row without a token in any step.
    assert work.is_within(Work(tiles=26, read=467, steps=39, written=40 + 11 * 5 - 12))


def test_speculative_decoding(loaded: LoadedCheckpoint) -> None:
    prompts = [
        Prompt((Message("user", (TextPart(f"Describe film {n % 3}."),)),), max_new_tokens=21)
        for n in range(6)
    ]
    engine = Engine(loaded, batch_size=6)
    first = dict(engine.generate(prompts))
    work = observe(loaded.model)
    assert dict(engine.generate(prompts)) == first
    # Accepted draft tokens save three of four steps.
    assert work.is_within(Work(read=72, steps=6, written=136))  # of 20 steps and 120 tokens


def test_equal_histories_of_users_are_prompted_once(
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
    # Four users with the same first block, two of them also with the same second block.
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
    assert work.is_within(Work(read=594, steps=10, written=20))


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
    assert work.is_within(Work(tiles=18, read=5343))
