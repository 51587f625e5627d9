"""Runs a loaded checkpoint over many prompts: look-ahead, batches, memory limits.

Shared by the backends that hold a model in this process. Prompts are read a window ahead and
worked on in the company that `_jobs.py` chooses: beside those that begin alike, where the model
lets `_prefixes.py` share that. Answers are written side by side and make room for each other as
they end, where it lets `_decoding.py` do so. A batch that does not fit into memory is halved, and
the smaller size is remembered. The paper's yes / no probability (section 3.3.2) is read here, from
the logits of the first new token.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeVar

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from mllm_msr.errors import AnswerTokenError, BackendError, MllmMsrError
from mllm_msr.inference.engine.batching import (
    Job,
    Room,
    longest_first,
    most_shared_first,
    next_answers,
    next_batch,
    side_by_side,
    with_known,
)
from mllm_msr.inference.engine.generation import Rows, can_write
from mllm_msr.inference.engine.logits import last_places, precise_choices
from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.inference.engine.prefix_sharing import PrefixStates, prefix_of, split
from mllm_msr.inference.engine.prompt_lookup import Speculation
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.models.prefix_sharing import can_share_prefixes
from mllm_msr.types import ChoiceScores, Completion, Prompt

_Result = TypeVar("_Result", Completion, ChoiceScores)

logger = logging.getLogger(__name__)

# Batches that are sorted together: more saves padding, fewer gives first results sooner.
_BATCHES_AHEAD: Final = 16

# What a model raises on prompts that it cannot take.
_FAULTS: Final = (RuntimeError, ValueError, IndexError, TypeError, MllmMsrError)


class Engine:
    """One model, driven for its backend.

    Args:
        loaded: The checkpoint.
        batch_size: Most prompts in a batch.
        max_batch_tokens: Most tokens in a batch, padding and new tokens included; a prompt
            longer than that runs alone.
        prefix_cache_bytes: Memory for what the model has read of images that are asked about
            again in later calls.
        speculative_tokens: Most tokens of an answer that are guessed at once; 0 guesses none.
    """

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        *,
        batch_size: int = 16,
        max_batch_tokens: int = 16_384,
        prefix_cache_bytes: int = 0,
        speculative_tokens: int = 3,
    ) -> None:
        self._model: Any = loaded.model
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        self._renderer = Renderer(
            loaded.processor, supports_images=loaded.supports_images, max_tokens=limit
        )
        self._shares = can_share_prefixes(loaded.model.config)
        self._writes = self._shares and can_write(loaded.model)
        self._image_token_id = getattr(loaded.model.config, "image_token_id", None)
        self._cache = PrefixCache(prefix_cache_bytes if self._shares else 0)
        self._states = PrefixStates(self._cache)
        self._speculation = Speculation(speculative_tokens)
        self._end_ids = _end_ids(loaded)
        # What a checkpoint suggests about sampling and penalties is put aside: answers are greedy.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self._end_ids) or None,
            pad_token_id=self._renderer.pad_id,
        )

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """See `Backend.generate`."""

        def work_off(jobs: deque[Job]) -> Iterator[tuple[int, Completion]]:
            if self._writes:
                return self._write(jobs)
            return self._work_off(jobs, self._generate_batch, _failed_completion)

        return self._run(prompts, work_off, _failed_completion, answers=True)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """See `Backend.score`."""

        def work(batch: Sequence[Job]) -> list[ChoiceScores]:
            return self._score_batch(batch, choices)

        def work_off(jobs: deque[Job]) -> Iterator[tuple[int, ChoiceScores]]:
            return self._work_off(jobs, work, _failed_scores)

        return self._run(prompts, work_off, _failed_scores, answers=False)

    def forget(self) -> None:
        """Drop what earlier prompts have left in memory."""
        self._states.clear()
        self._cache.clear()
        self._speculation.clear()

    def close(self) -> None:
        """Let the model go."""
        self._model = None
        self.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self,
        prompts: Iterable[Prompt],
        work_off: Callable[[deque[Job]], Iterator[tuple[int, _Result]]],
        failed: Callable[[Exception], _Result],
        *,
        answers: bool,
    ) -> Iterator[tuple[int, _Result]]:
        """Yield (index, result) for every prompt, window by window."""
        if self._model is None:
            raise BackendError(
                needed="an open backend", received="a closed one", remedy="make a new one"
            )
        numbered = enumerate(prompts)
        while window := self._read_ahead(numbered):
            jobs = []
            for index, prompt, rendered in window:
                if isinstance(rendered, Exception):
                    yield index, failed(rendered)
                else:
                    jobs.append(Job(index, rendered, prompt.max_new_tokens if answers else 0))
            yield from work_off(deque(self._arranged(jobs, answers=answers)))
            self._states.clear()

    def _arranged(self, jobs: Sequence[Job], *, answers: bool) -> list[Job]:
        """The jobs of a window in the order in which they are worked off."""
        ordered = longest_first(jobs)
        if self._shares and (self._writes or not answers):
            ordered = side_by_side(ordered, image_token_id=self._image_token_id)
        if self._writes and answers:  # what they share is the instruction: length matters more
            return most_shared_first(ordered)
        if self._cache.max_bytes:
            n_known = functools.partial(self._cache.n_known, image_token_id=self._image_token_id)
            return with_known(ordered, n_known)
        return ordered

    def _read_ahead(
        self, numbered: Iterator[tuple[int, Prompt]]
    ) -> list[tuple[int, Prompt, Rendered | Exception]]:
        """Render the next prompts, as many as are worth sorting and whose images are kept."""
        window: list[tuple[int, Prompt, Rendered | Exception]] = []
        images = self._renderer.images
        # Half of the cache, so that the last image does not push out the first.
        enough = images.n_prepared_bytes + images.max_bytes // 2
        for index, prompt in itertools.islice(numbered, self._batch_size * _BATCHES_AHEAD):
            self._renderer.check(prompt)
            try:
                window.append((index, prompt, self._renderer.render(prompt)))
            except (MllmMsrError, ValueError) as error:
                window.append((index, prompt, error))
            if images.n_prepared_bytes >= enough:
                break
        return window

    def _work_off(
        self,
        jobs: deque[Job],
        work: Callable[[Sequence[Job]], list[_Result]],
        failed: Callable[[Exception], _Result],
    ) -> Iterator[tuple[int, _Result]]:
        alone = 0  # jobs at the front that failed together and are tried one by one
        while jobs:
            batch = next_batch(jobs, self._room(alone=alone > 0))
            alone = max(alone - 1, 0)
            try:
                results = work(batch)
            except AnswerTokenError:
                raise
            except _FAULTS as error:
                if len(batch) > 1:
                    jobs.extendleft(reversed(batch))
                    if _is_out_of_memory(error):
                        self._halve(len(batch))
                    else:
                        alone = len(batch)
                    continue
                results = [failed(error)]
            yield from zip((job.index for job in batch), results, strict=True)

    def _write(self, jobs: deque[Job]) -> Iterator[tuple[int, Completion]]:
        """Write answers side by side, each leaving as it ends."""
        rows, writing = Rows(self._model, self._speculation), list[Job]()
        alone = 0  # jobs at the front that failed together and are tried one by one
        while jobs or writing:
            try:
                begun = next_answers(jobs, writing, self._room(alone=alone > 0))
                writing += begun
                if begun:
                    shared = len(begun) > 1 and begun[0].n_shared > 0
                    inputs, last = self._continued(begun) if shared else self._whole(begun)
                    rows.add([job.rendered.input_ids for job in begun], inputs, last)
                else:
                    rows.step()
            except _FAULTS as error:
                alone = self._set_back(jobs, writing, error, alone=alone)
                if len(writing) == 1:
                    yield writing[0].index, _failed_completion(error)
                rows, writing = Rows(self._model, self._speculation), []
                continue
            going = [n for n, job in enumerate(writing) if not self._ended(job, rows.written[n])]
            if len(going) == len(writing):
                continue
            for row in sorted(set(range(len(writing))) - set(going)):
                job = writing[row]
                yield job.index, self._completion(job, rows.written[row][: job.max_new_tokens])
            alone = max(alone - len(writing) + len(going), 0)
            writing = [writing[row] for row in going]
            rows.keep(going)

    def _set_back(
        self, jobs: deque[Job], writing: Sequence[Job], error: Exception, *, alone: int
    ) -> int:
        """Put answers that failed together back; returns how many are to be tried one by one."""
        if len(writing) == 1:
            return max(alone - 1, 0)
        jobs.extendleft(reversed(writing))
        if _is_out_of_memory(error):
            self._halve(len(writing))
            return alone
        return len(writing)

    def _ended(self, job: Job, written: Sequence[int]) -> bool:
        return len(written) >= job.max_new_tokens or not self._end_ids.isdisjoint(written)

    def _room(self, *, alone: bool) -> Room:
        return Room(1 if alone else self._batch_size, self._max_batch_tokens)

    def _halve(self, n_rows: int) -> None:
        self._batch_size = max(1, n_rows // 2)
        self.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("Out of memory: going on with %d prompts a batch.", self._batch_size)

    def _inputs(
        self, batch: Sequence[Rendered], pad_side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """The model's inputs on its device, images in its precision."""
        inputs = self._renderer.collate(batch, pad_side=pad_side, with_answers=False)
        dtype = self._model.dtype
        return {
            name: tensor.to(self._model.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    @torch.inference_mode()
    def _generate_batch(self, batch: Sequence[Job]) -> list[Completion]:
        inputs = self._inputs([job.rendered for job in batch], "left")
        output = self._model.generate(**inputs, max_new_tokens=batch[0].max_new_tokens)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()  # [batch, new tokens]
        return [self._completion(job, ids) for job, ids in zip(batch, new, strict=True)]

    def _completion(self, job: Job, ids: list[int]) -> Completion:
        words = list(itertools.takewhile(lambda token: token not in self._end_ids, ids))
        text = self._renderer.tokenizer.decode(words, skip_special_tokens=True)
        ended = len(words) < len(ids)
        return Completion(
            text=text.strip(),
            prompt_tokens=len(job.rendered.input_ids),
            output_tokens=len(words) + ended,
            finish_reason="stop" if ended else "length",
        )

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[Job], choices: Sequence[str]) -> list[ChoiceScores]:
        ids = torch.tensor(
            [self._renderer.choice_ids(job.rendered.input_ids, choices) for job in batch],
            device=self._model.device,
        )  # [batch, choices]
        # Alone, as after a batch that failed, a prompt depends on no other.
        shared = (len(batch) > 1 or self._cache.max_bytes > 0) and batch[0].n_shared > 0
        inputs, last = self._continued(batch) if shared else self._whole(batch)
        if keeps := not shared and self._cache.max_bytes > 0:
            inputs["past_key_values"] = DynamicCache()
        with last_places(self._model, last), precise_choices(self._model, ids):
            output = self._model(**inputs, use_cache=keeps)
        logits = output.logits  # [batch, 1, vocabulary]
        if keeps:
            self._keep(batch, inputs["past_key_values"])
        log_probs = logits[:, 0].float().log_softmax(dim=-1).gather(1, ids)  # [batch, choices]
        return [
            _scores(job, row) for job, row in zip(batch, log_probs.double().tolist(), strict=True)
        ]

    def _keep(self, batch: Sequence[Job], states: DynamicCache) -> None:
        """Remember whole prompts, padded on the right, that begin with a image."""
        for row, job in enumerate(batch):
            layers = [(layer.keys[row], layer.values[row]) for layer in states.layers]
            self._cache.put(job.rendered.images, job.rendered.input_ids, layers)

    def _whole(self, batch: Sequence[Job]) -> tuple[dict[str, Any], Tensor]:
        """Inputs of whole prompts, and where in them each one ends [batch]."""
        # Padded on the right, positions are those of the prompt alone for every kind of model.
        inputs = self._inputs([job.rendered for job in batch], "right")
        return inputs, inputs["attention_mask"].sum(dim=1) - 1

    def _continued(self, batch: Sequence[Job]) -> tuple[dict[str, Any], Tensor]:
        """The same for what follows the shared beginnings, which the model has run over."""
        n_shared = batch[0].n_shared
        begins, rests = zip(*(split(job.rendered, n_shared) for job in batch), strict=True)

        def run(rows: Sequence[int]) -> DynamicCache:
            cache = DynamicCache()
            inputs = self._inputs([begins[row] for row in rows], "right")
            last = inputs["attention_mask"].sum(dim=1) - 1
            with last_places(self._model, last):
                self._model(**inputs, past_key_values=cache, use_cache=True)
            return cache

        states = self._states.for_rows([prefix_of(begin) for begin in begins], run)
        inputs = self._inputs(rests, "right")
        mask = inputs["attention_mask"]
        seen = mask.new_ones(len(batch), n_shared)
        inputs["attention_mask"] = torch.cat([seen, mask], dim=1)  # [batch, shared + length]
        return {**inputs, "past_key_values": states}, mask.sum(dim=1) - 1


def _end_ids(loaded: LoadedCheckpoint) -> frozenset[int]:
    """Ids that end an answer: those of the generation settings and of the tokenizer."""
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    configured = loaded.model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _scores(job: Job, log_probs: list[float]) -> ChoiceScores:
    n_tokens = len(job.rendered.input_ids)
    if not all(-float("inf") < value <= 0.0 for value in log_probs):
        return ChoiceScores((), n_tokens, error=f"the model's log-probabilities are {log_probs}")
    return ChoiceScores(tuple(log_probs), n_tokens)


def _failed_completion(error: Exception) -> Completion:
    return Completion("", finish_reason="error", error=_sentence(error))


def _failed_scores(error: Exception) -> ChoiceScores:
    return ChoiceScores((), error=_sentence(error))


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
