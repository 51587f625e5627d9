"""Tests of continuous batching: equal to single prompts, rows refilled, failures isolated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mllm_msr.inference.engine.engine import Engine
from mllm_msr.inference.engine.generation import DecodingBatch
from mllm_msr.inference.engine.prompt_lookup import PromptLookup
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.models.prefix_support import why_not_continuous
from mllm_msr.types import Completion, ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]


def ask(text: str, *images: Path, new: int = 6) -> Prompt:
    parts = (*(ImagePart(path) for path in images), TextPart(text))
    return Prompt((Message("user", parts),), max_new_tokens=new)


def many(n: int, *, images: Sequence[Path] = ()) -> list[Prompt]:
    """Return prompts of several lengths and limits, every second one with an image if given."""
    return [
        ask(
            f"Film {number}. " + "calm " * (7 * number % 11),
            *([images[number % len(images)]] if images and number % 2 else []),
            new=3 + 5 * number % 17,
        )
        for number in range(n)
    ]


def reference(loaded: LoadedCheckpoint, prompts: Sequence[Prompt]) -> dict[int, Completion]:
    """Generate with the loop of Transformers, one prompt at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_msr.inference.engine.engine.why_not_continuous", lambda _: "reference")
        return dict(Engine(loaded, batch_size=1).generate(prompts))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llava_next", "llama"])
def test_completions_equal_those_of_transformers(
    family: str, attention: Any, tiny_checkpoint: Checkpoint, images: Sequence[Path]
) -> None:
    loaded = load_model(str(tiny_checkpoint(family)), device="cpu", attention=attention)
    prompts = many(13, images=images if loaded.supports_images else ())
    expected = reference(loaded, prompts)
    for batch_size, n_drafts in itertools.product((1, 4, 32), (0, 1, 3)):
        engine = Engine(loaded, batch_size=batch_size, speculative_tokens=n_drafts)
        assert dict(engine.generate(prompts)) == expected
        assert dict(engine.generate(prompts)) == expected  # every token has a draft now


def test_the_row_of_a_finished_sequence_is_reused(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    prompts = [ask("One.", new=40), *(ask(f"Film {n}.", new=4) for n in range(20))]
    rows: list[int] = []

    def record(_: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"] is not None and kwargs["input_ids"].shape[1] == 1:
            rows.append(len(kwargs["input_ids"]))

    loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    completions = dict(Engine(loaded, batch_size=4, speculative_tokens=0).generate(prompts))
    n_tokens = [completions[n].output_tokens for n in range(21)]
    assert n_tokens == [40, *[4] * 20]
    # The first token of each answer comes from prefill, every other from one row of one step.
    assert sum(rows) == sum(n_tokens) - 21
    assert len(rows) == 39


def test_the_longest_answer_does_not_delay_others(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    prompts = [ask("One.", new=40), *(ask(f"Film {n}.", new=4) for n in range(5))]
    engine = Engine(loaded, batch_size=2, speculative_tokens=0)
    order = [index for index, _ in engine.generate(prompts)]
    assert order[-1] == 0


def test_out_of_memory_reduces_the_batch(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    prompts = many(9)
    expected = dict(Engine(loaded).generate(prompts))
    rows: list[int] = []

    def small(_: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loaded.model.register_forward_pre_hook(small, with_kwargs=True)
    assert dict(Engine(loaded, batch_size=8).generate(prompts)) == expected
    assert max(rows) > 3
    assert rows[-1] <= 3


def test_a_failing_sequence_does_not_fail_its_batch(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    prompts = many(7)
    expected = dict(Engine(loaded).generate(prompts))
    failing = max(completion.prompt_tokens for completion in expected.values()) + 1

    def fail(_: Any, args: Any, kwargs: Any) -> None:
        positions = kwargs.get("position_ids")
        if positions is not None and bool((positions == failing).any()):
            raise RuntimeError("the kernel says no\nand more")

    loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    completions = dict(Engine(loaded, batch_size=4).generate(prompts))
    failed = [index for index, completion in completions.items() if completion.error]
    assert sorted(completions) == list(range(7))
    assert 0 < len(failed) < 7
    for index, completion in completions.items():
        if index in failed:
            assert completion.error == "the kernel says no"
        else:
            assert completion == expected[index]


def test_the_batch_is_limited_in_tokens(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    rows: list[int] = []

    def record(_: Any, args: Any, kwargs: Any) -> None:
        rows.append(len(kwargs["input_ids"]))

    loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    prompts = [ask("Film.", new=9)] * 6
    n_tokens = next(Engine(loaded).generate(prompts))[1].prompt_tokens + 9
    rows.clear()
    list(Engine(loaded, max_batch_tokens=3 * n_tokens).generate(prompts))
    assert max(rows) == 3


def test_repeated_answers_take_fewer_steps(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    widths: list[int] = []

    def record(_: Any, args: Any, kwargs: Any) -> None:
        widths.append(kwargs["input_ids"].shape[1])

    engine = Engine(loaded, speculative_tokens=3)
    prompt = ask("Film.", new=33)
    [(_, first)] = engine.generate([prompt])
    loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    assert list(engine.generate([prompt])) == [(0, first)]
    assert first.output_tokens == 33
    assert widths[0] == first.prompt_tokens
    assert widths[1:] == [4] * 8  # the first token comes from prefill, then four per step
    engine.clear_caches()
    widths.clear()
    assert list(engine.generate([prompt])) == [(0, first)]
    assert len(widths) > 9


def test_draft_tokens_do_not_exceed_the_limit(tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    engine = Engine(loaded, speculative_tokens=3)
    [(_, long)] = engine.generate([ask("Film.", new=33)])
    for new in range(1, 9):
        [(_, short)] = engine.generate([ask("Film.", new=new)])
        assert (short.output_tokens, short.finish_reason) == (new, "length")
        assert long.text.startswith(short.text)


@pytest.mark.parametrize("n_drafts", [0, 3])
def test_selected_rows_keep_their_states(n_drafts: int, tiny_checkpoint: Checkpoint) -> None:
    loaded = load_model(str(tiny_checkpoint("llama")), device="cpu")
    assert not why_not_continuous(loaded.model)
    batch = DecodingBatch(loaded.model, PromptLookup(n_drafts))
    ids = torch.tensor([[5, 6, 7], [8, 9, 0], [11, 12, 13]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    batch.prefill(
        [[5, 6, 7], [8, 9], [11, 12, 13]],
        {"input_ids": ids, "attention_mask": mask},
        mask.sum(dim=1) - 1,
        torch.zeros(3, dtype=torch.long),
    )
    batch.decode()
    batch.select([1, 2])
    for _ in range(80):  # beyond the capacity of the first allocation
        batch.decode()
    for answer, row in zip(batch.generated, (1, 2), strict=True):
        assert answer == greedy(loaded.model, ids[row, : int(mask[row].sum())], len(answer))


def greedy(model: Any, ids: Tensor, n_tokens: int) -> list[int]:
    """Generate token by token without a cache."""
    with torch.inference_mode():
        for _ in range(n_tokens):
            token = model(input_ids=ids.unsqueeze(0)).logits[0, -1].argmax()
            ids = torch.cat([ids, token.reshape(1)])
    return [int(token) for token in ids[-n_tokens:]]
