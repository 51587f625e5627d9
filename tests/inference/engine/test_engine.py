"""Tests of the engine: model families, scores, batches, memory limits, failures."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_msr.errors import BackendError, CapabilityError
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.image_inputs import ImageCache
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import LoadedCheckpoint, load_model
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from tiny_checkpoints import FAMILIES, VISION_FAMILIES

Load = Callable[[str], LoadedCheckpoint]

# A family without prefix sharing: each forward pass is one batch.
PLAIN = "mllama"


@pytest.fixture(scope="module")
def load(tiny_checkpoint: Callable[[str], Path]) -> Load:
    def loaded(family: str) -> LoadedCheckpoint:
        return load_model(str(tiny_checkpoint(family)), device="cpu")

    return loaded


def ask(text: str, *images: Path, new: int = 6, budget: int | None = None) -> Prompt:
    parts = (*(ImagePart(path) for path in images), TextPart(text))
    return Prompt((Message("user", parts),), max_new_tokens=new, max_text_tokens=budget)


def record_rows(
    loaded: LoadedCheckpoint, *, at_most: int = 10**6, fault: Exception | None = None
) -> Any:
    """Record the rows of every forward pass and raise `fault` above `at_most` rows."""
    rows: list[int] = []

    def record(_: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        rows.append(len(ids))
        if len(ids) > at_most and fault is not None:
            raise fault

    loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    return rows


class TestFamilies:
    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_a_completion_does_not_depend_on_the_batch(
        self, family: str, load: Load, images: Sequence[Path]
    ) -> None:
        prompts = [ask("Describe the image.", path, new=12) for path in images]
        together = dict(Engine(load(family), batch_size=8).generate(prompts))
        alone = dict(Engine(load(family), batch_size=1).generate(prompts))
        assert together == alone

    @pytest.mark.parametrize("family", FAMILIES)
    def test_scores_do_not_depend_on_the_batch(
        self, family: str, load: Load, images: Sequence[Path]
    ) -> None:
        prompts = [
            ask(
                f"Video {n}. " + "calm " * (5 * n % 17),
                *([images[n % 4]] if n % 2 and family in VISION_FAMILIES else []),
            )
            for n in range(9)
        ]
        together = dict(Engine(load(family), batch_size=8).score(prompts, ("yes", "no")))
        alone = dict(Engine(load(family), batch_size=1).score(prompts, ("yes", "no")))
        for index in range(len(prompts)):
            assert together[index].log_probs == pytest.approx(alone[index].log_probs, abs=1e-4)
        assert len({score.log_probs for score in alone.values()}) == len(prompts)

    @pytest.mark.parametrize("family", VISION_FAMILIES)
    def test_scores_depend_on_the_image(
        self, family: str, load: Load, images: Sequence[Path]
    ) -> None:
        prompts = [ask("Yes or no?", path) for path in images[:2]]
        first, second = dict(Engine(load(family)).score(prompts, ("yes", "no"))).values()
        assert abs(first.log_probs[0] - second.log_probs[0]) > 1e-3


class TestScores:
    @pytest.mark.parametrize("family", ["llava_next", "gemma3", "llama"])
    def test_scores_are_log_probabilities_over_the_whole_vocabulary(
        self, family: str, load: Load
    ) -> None:
        loaded = load(family)
        prompt = ask("Would the user watch it? Answer only yes or no.")
        renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
        rendered = renderer.render(prompt)
        ids = renderer.choice_ids(rendered.input_ids, ("yes", "no"))
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([rendered.input_ids])).logits[0, -1]
        expected = logits.log_softmax(-1)[list(ids)].tolist()

        scored = dict(Engine(loaded).score([prompt, ask("No.")], ("yes", "no")))[0]

        assert scored.log_probs == pytest.approx(expected, abs=1e-5)
        assert scored.prompt_tokens == len(rendered.input_ids)

    def test_half_precision_does_not_tie_the_choices(
        self, tiny_checkpoint: Callable[[str], Path]
    ) -> None:
        loaded = load_model(str(tiny_checkpoint("llama")), dtype="bfloat16", device="cpu")
        with torch.no_grad():  # logits near 20, where bfloat16 has steps of 1/8
            loaded.model.lm_head.weight.mul_(12)
        prompts = [ask(f"Candidate {n}.") for n in range(60)]
        scores = dict(Engine(loaded).score(prompts, ("yes", "no")))
        gaps = [scores[n].log_probs[0] - scores[n].log_probs[1] for n in range(60)]
        assert len({round(gap, 6) for gap in gaps}) == 60
        assert any(abs(gap * 8 - round(gap * 8)) > 0.01 for gap in gaps)

    def test_nan_logits_fail_the_prompt(self, load: Load) -> None:
        loaded = load("llama")
        with torch.no_grad():
            loaded.model.lm_head.weight.fill_(torch.nan)
        _, scored = next(Engine(loaded).score([ask("Yes or no?")], ("yes", "no")))
        assert scored.log_probs == ()
        assert "log-probabilities are [nan, nan]" in str(scored.error)

    def test_scoring_removes_its_hooks(self, load: Load) -> None:
        loaded = load("llama")
        next(Engine(loaded).score([ask("Yes or no?")], ("yes", "no")))
        layer = loaded.model.get_output_embeddings()
        assert not layer._forward_hooks
        assert not layer._forward_pre_hooks


class TestGenerationSettings:
    def test_generation_stops_at_the_end_token_of_the_checkpoint(self, load: Load) -> None:
        loaded = load("llama")
        prompt = ask("Tell me.", new=8)
        ids = torch.tensor(
            [Renderer(loaded.processor, supports_images=False).render(prompt).input_ids]
        )
        written = loaded.model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
        end = next(n for n in range(2, 8) if written[n] not in written[:n])
        loaded.model.generation_config.eos_token_id = [int(written[end])]

        _, completion = next(Engine(loaded).generate([prompt]))

        assert completion.finish_reason == "stop"
        assert completion.output_tokens == end + 1
        assert completion.text == loaded.processor.decode(written[:end]).strip()

    def test_sampling_and_penalties_of_the_checkpoint_are_ignored(self, load: Load) -> None:
        plain, noisy = load("llama"), load("llama")
        noisy.model.generation_config.update(
            do_sample=True, temperature=9.0, repetition_penalty=5.0
        )
        prompts = [ask(f"Film {n}.", new=10) for n in range(4)]
        assert dict(Engine(noisy).generate(prompts)) == dict(Engine(plain).generate(prompts))


class TestBatches:
    def test_rows_and_tokens_are_limited(self, load: Load) -> None:
        loaded = load(PLAIN)
        rows = record_rows(loaded)
        prompts = [ask("calm " * (1 + 40 * (n == 0))) for n in range(7)]
        list(Engine(loaded, batch_size=4).score(prompts, ("yes", "no")))
        assert rows == [4, 3]
        _, short = next(Engine(loaded).score(prompts[1:], ("yes", "no")))
        rows.clear()
        limit = 4 * short.prompt_tokens - 1
        list(Engine(loaded, batch_size=4, max_batch_tokens=limit).score(prompts, ("yes", "no")))
        assert rows == [1, 3, 3]

    def test_a_prompt_over_the_token_limit_runs_alone(self, load: Load) -> None:
        loaded = load("llama")
        rows = record_rows(loaded)
        scores = dict(
            Engine(loaded, max_batch_tokens=1).score([ask("Yes?"), ask("No?")], ("yes", "no"))
        )
        assert rows == [1, 1]
        assert all(score.error is None for score in scores.values())

    def test_results_are_returned_before_all_prompts_are_read(self, load: Load) -> None:
        n_read = 0

        def infinite() -> Any:
            nonlocal n_read
            while True:
                n_read += 1
                yield ask("Yes or no?")

        next(Engine(load("llama"), batch_size=2).score(infinite(), ("yes", "no")))
        assert n_read == 32

    def test_a_window_ends_when_its_images_fill_the_cache(
        self, load: Load, images: Sequence[Path]
    ) -> None:
        loaded = load("llava_next")
        prepared = []
        original = type(loaded.processor).__call__
        engine = Engine(loaded, batch_size=2)
        engine._renderer.images = ImageCache(loaded.processor, max_bytes=100_000)

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(kwargs["images"][0], list):  # one prompt
                prepared.append(kwargs["images"])
            return original(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(loaded.processor), "__call__", counted)
            scores = dict(engine.score([ask("?", path) for path in images], ("yes", "no")))
        assert len(scores) == len(prepared) == len(images)


class TestFailures:
    @pytest.mark.parametrize(
        "fault",
        [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you")],
    )
    def test_out_of_memory_halves_the_batch_size_permanently(
        self, fault: Exception, load: Load, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = dict(Engine(load(PLAIN)).score(prompts := many(20), ("yes", "no")))
        loaded = load(PLAIN)
        rows = record_rows(loaded, at_most=3, fault=fault)
        engine = Engine(loaded, batch_size=8)
        with caplog.at_level(logging.WARNING):
            scores = dict(engine.score(prompts, ("yes", "no")))
        assert rows == [8, 4, *[2] * 10]
        assert "reduced the batch size to 2" in caplog.text
        for index in range(20):
            assert scores[index].log_probs == pytest.approx(expected[index].log_probs, abs=1e-4)
        rows.clear()
        list(engine.score(prompts[:4], ("yes", "no")))
        assert rows == [2, 2]

    def test_out_of_memory_of_a_single_prompt_fails_the_prompt(self, load: Load) -> None:
        loaded = load("llama")
        record_rows(loaded, at_most=0, fault=torch.OutOfMemoryError("CUDA out of memory"))
        completions = dict(Engine(loaded, batch_size=4).generate(many(3)))
        assert [completions[n].error for n in range(3)] == ["CUDA out of memory"] * 3

    def test_a_failing_prompt_does_not_fail_its_batch(self, load: Load) -> None:
        loaded = load(PLAIN)
        sizes: list[int] = []

        def fail(_: Any, args: Any, kwargs: Any) -> None:
            sizes.append(len(kwargs["input_ids"]))
            if (kwargs["attention_mask"].sum(dim=1) > 60).any():
                raise RuntimeError("the kernel says no\nand more")

        loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
        prompts = [*many(3), ask("calm " * 80), *many(9)]
        scores = dict(Engine(loaded, batch_size=4).score(prompts, ("yes", "no")))
        assert [n for n in range(13) if scores[n].error] == [3]
        assert scores[3].error == "the kernel says no"
        assert sizes == [4, 1, 1, 1, 1, 4, 4, 1]

    def test_a_prompt_over_its_budget_does_not_fail_its_batch(self, load: Load) -> None:
        prompts = [ask("Fine."), ask("one two three " * 20, budget=10)]
        completions = dict(Engine(load("llama")).generate(prompts))
        assert completions[0].error is None
        assert "limit of 10" in str(completions[1].error)


class TestClose:
    @pytest.mark.parametrize("family", ["qwen2_5_vl", "ovis2"])
    def test_a_closed_engine_frees_the_model(
        self, family: str, load: Load, images: Sequence[Path]
    ) -> None:
        loaded = load(family)
        engine = Engine(loaded, prefix_cache_bytes=2**20)
        list(engine.score([ask("Yes?", images[0]), ask("No?", images[0])], ("yes", "no")))
        list(engine.generate([ask("Yes?", images[0]), ask("No?", images[0])]))
        model = weakref.ref(loaded.model)
        del loaded
        engine.close()
        engine.close()
        gc.collect()
        assert model() is None
        with pytest.raises(BackendError, match="closed"):
            next(engine.score([ask("Yes?")], ("yes", "no")))


def many(n: int) -> list[Prompt]:
    return [ask(f"Film {number}.") for number in range(n)]


class TestThoughts:
    def test_a_first_token_that_opens_a_thought_is_not_scored(
        self, load: Load, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = Engine(load("llama"))
        monkeypatch.setattr(Renderer, "thought_ids", frozenset(range(10_000)))
        ((_, scores),) = engine.score([ask("Hello.")], ("yes", "no"))
        assert scores.log_probs == ()
        assert "so its first token does not answer yes or no" in str(scores.error)

    def test_prompts_that_end_within_a_thought_are_rejected(self, load: Load) -> None:
        loaded = load("llama")
        loaded.processor.chat_template += "<think>"
        with pytest.raises(CapabilityError, match="ends prompts with"):
            Engine(loaded).score([ask("Hello.")], ("yes", "no"))

    def test_a_template_without_images_ends_the_run(
        self, load: Load, images: Sequence[Path]
    ) -> None:
        loaded = load("qwen2_5_vl")
        loaded.processor.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        with pytest.raises(CapabilityError, match="0 image placeholders"):
            list(Engine(loaded).generate([ask("What?", images[0])]))
