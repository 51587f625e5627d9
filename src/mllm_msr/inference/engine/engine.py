"""Inference engine: runs a loaded checkpoint on many prompts.

Shared by the backends that run a model in this process. Prompts are read in windows, ordered by
`scheduling.py`, and run in batches (`batch_inputs.py`). If the model supports it, prompts with a
common prefix share its states (`prefix_sharing.py`), and answers are generated with continuous
batching and speculative decoding (`generation.py`). When a batch runs out of memory, the batch size
is halved for all later batches. The paper's yes / no probability (section 3.3.2) is read here, from
the logits of the first new token.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import torch
import transformers

from mllm_msr.errors import (
    AnswerTokenError,
    BackendError,
    CapabilityError,
    MllmMsrError,
    first_line,
)
from mllm_msr.inference.engine.batch_inputs import BatchInputs
from mllm_msr.inference.engine.generation import DecodingBatch
from mllm_msr.inference.engine.logits import float32_choices
from mllm_msr.inference.engine.prefix_cache import PrefixCache
from mllm_msr.inference.engine.prompt_lookup import PromptLookup
from mllm_msr.inference.engine.scheduling import (
    BatchLimits,
    Request,
    admit,
    next_batch,
    sort_by_prefix,
    sort_longest_first,
    sort_longest_prefix_first,
    use_cached_prefixes,
)
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.models.prefix_support import can_share_prefixes, prefix_support, why_not_continuous
from mllm_msr.models.self_check import MODEL_ERRORS, BatchCheck
from mllm_msr.models.states import StateReader
from mllm_msr.models.vector_tokens import find_vector_projector
from mllm_msr.types import ChoiceScores, Completion, Prompt

_Result = TypeVar("_Result", Completion, ChoiceScores)

logger = logging.getLogger(__name__)

# Batches per window. More batches reduce padding; fewer return the first results sooner.
_BATCHES_PER_WINDOW: Final = 16

# Exceptions that a model raises for single prompts.
_PROMPT_ERRORS: Final = (*MODEL_ERRORS, MllmMsrError)


class Engine:
    """Inference engine of one model.

    Args:
        loaded: The checkpoint.
        batch_size: Maximum number of prompts in a batch.
        max_batch_tokens: Maximum number of tokens in a batch, including padding and new tokens. A
            longer prompt runs alone.
        prefix_cache_bytes: Memory for the keys and values of prompts with images that later calls
            may reuse; 0 disables the cache.
        speculative_tokens: Maximum number of draft tokens per sequence and step; 0 disables
            speculative decoding.
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
            loaded.processor,
            supports_images=loaded.supports_images,
            max_tokens=limit,
            projector=find_vector_projector(loaded.model),
        )
        self._batch_check = BatchCheck(loaded.model, self._renderer)
        self._shares_prefixes = can_share_prefixes(loaded.model.config)
        self._batches_continuously = not why_not_continuous(loaded.model)
        self._images_may_follow = prefix_support(loaded.model.config).images_are_causal
        self._reader = StateReader(loaded.model)
        self._image_token_id = getattr(loaded.model.config, "image_token_id", None)
        self._cache = PrefixCache(
            prefix_cache_bytes if self._shares_prefixes else 0, can_cut=self._reader.can_cut
        )
        self._inputs = BatchInputs(
            self._model,
            self._renderer,
            reader=self._reader,
            cache=self._cache,
            image_token_id=self._image_token_id,
            reuses_features=not self._shares_prefixes,
        )
        self._drafts = PromptLookup(speculative_tokens)
        tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        eos = loaded.model.generation_config.eos_token_id
        eos_ids = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
        self._end_ids = frozenset(int(token_id) for token_id in eos_ids if token_id is not None)
        # Replace the checkpoint's sampling and penalty settings, since decoding is greedy.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self._end_ids) or None,
            pad_token_id=self._renderer.pad_id,
        )

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Generate completions; see `Backend.generate`."""

        def run_window(requests: deque[Request]) -> Iterator[tuple[int, Completion]]:
            if self._batches_continuously:
                return self._decode_continuously(requests)
            return self._run_batches(requests, self._generate_batch, _failed_completion)

        return self._run(prompts, run_window, _failed_completion, generating=True)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Score choices; see `Backend.score`."""
        self._renderer.require_answer_position()

        def run_batch(batch: Sequence[Request]) -> list[ChoiceScores]:
            return self._score_batch(batch, choices)

        def run_window(requests: deque[Request]) -> Iterator[tuple[int, ChoiceScores]]:
            return self._run_batches(requests, run_batch, _failed_scores)

        return self._run(prompts, run_window, _failed_scores, generating=False)

    def clear_caches(self) -> None:
        """Remove all states, prefixes and n-grams of earlier prompts; results do not change."""
        self._inputs.clear()
        self._drafts.clear()

    def close(self) -> None:
        """Free the model and all caches."""
        if self._model is None:
            return
        self.clear_caches()
        self._model = None
        del self._batch_check, self._reader, self._inputs  # they refer to the model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self,
        prompts: Iterable[Prompt],
        run_window: Callable[[deque[Request]], Iterator[tuple[int, _Result]]],
        failed: Callable[[Exception], _Result],
        *,
        generating: bool,
    ) -> Iterator[tuple[int, _Result]]:
        """Yield the index and result of every prompt, window by window."""
        if self._model is None:
            raise BackendError("The backend is closed. Create a new one.")
        numbered = enumerate(prompts)
        while window := self._read_window(numbered):
            requests = []
            for index, prompt, rendered in window:
                if isinstance(rendered, Exception):
                    yield index, failed(rendered)
                else:
                    n_new = prompt.max_new_tokens if generating else 0
                    requests.append(Request(index, rendered, n_new))
            rows = [request.rendered for request in requests]
            self._batch_size = self._batch_check.limit(self._batch_size, rows)
            yield from run_window(deque(self._order(requests, generating=generating)))
            self._inputs.clear_window()

    def _read_window(
        self, numbered: Iterator[tuple[int, Prompt]]
    ) -> list[tuple[int, Prompt, Rendered | Exception]]:
        """Render the next prompts: enough to sort, but no more than the image cache can hold."""
        window: list[tuple[int, Prompt, Rendered | Exception]] = []
        images = self._renderer.images
        # Half of the cache, so that the last image of a window does not evict the first.
        enough = images.n_prepared_bytes + images.max_bytes // 2
        for index, prompt in itertools.islice(numbered, self._batch_size * _BATCHES_PER_WINDOW):
            self._renderer.check(prompt)
            try:
                window.append((index, prompt, self._renderer.render(prompt)))
            except CapabilityError:
                raise  # concerns the model, not this prompt
            except _PROMPT_ERRORS as error:
                window.append((index, prompt, error))
            if images.n_prepared_bytes >= enough:
                break
        return window

    def _order(self, requests: Sequence[Request], *, generating: bool) -> list[Request]:
        """Return the requests of a window in the order in which they run."""
        ordered = sort_longest_first(requests)
        if self._shares_prefixes and (self._batches_continuously or not generating):
            ordered = sort_by_prefix(
                ordered,
                image_token_id=self._image_token_id,
                images_may_follow=self._images_may_follow and not generating,
            )
        if self._batches_continuously and generating:
            # Generation prompts share only the instruction, so their length matters more.
            return sort_longest_prefix_first(ordered)
        if self._cache.max_bytes:
            n_cached = functools.partial(
                self._cache.match_length, image_token_id=self._image_token_id
            )
            return use_cached_prefixes(ordered, n_cached)
        return ordered

    def _run_batches(
        self,
        requests: deque[Request],
        run_batch: Callable[[Sequence[Request]], list[_Result]],
        failed: Callable[[Exception], _Result],
    ) -> Iterator[tuple[int, _Result]]:
        """Run requests in static batches."""
        n_single = 0  # requests at the front that run one by one because their batch failed
        while requests:
            batch = next_batch(requests, self._limits(single=n_single > 0))
            n_single = max(n_single - 1, 0)
            try:
                results = run_batch(batch)
            except AnswerTokenError:
                raise
            except _PROMPT_ERRORS as error:
                if len(batch) > 1:
                    requests.extendleft(reversed(batch))
                    if _is_out_of_memory(error):
                        self._halve_batch_size(len(batch))
                    else:
                        n_single = len(batch)
                    continue
                results = [failed(error)]
            yield from zip((request.index for request in batch), results, strict=True)

    def _decode_continuously(self, requests: deque[Request]) -> Iterator[tuple[int, Completion]]:
        """Generate with continuous batching, yielding each completion as soon as it ends."""
        batch, running = DecodingBatch(self._model, self._drafts), list[Request]()
        n_single = 0  # requests at the front that run one by one because their batch failed
        while requests or running:
            try:
                admitted = admit(requests, running, self._limits(single=n_single > 0))
                running += admitted
                if admitted:
                    shared = len(admitted) > 1 and admitted[0].n_shared > 0
                    read = self._inputs.of_suffixes if shared else self._inputs.of_prompts
                    inputs, last, offsets = read(admitted)
                    batch.prefill([r.rendered.input_ids for r in admitted], inputs, last, offsets)
                else:
                    batch.decode()
            except _PROMPT_ERRORS as error:
                if len(running) == 1:
                    yield running[0].index, _failed_completion(error)
                    n_single = max(n_single - 1, 0)
                else:
                    requests.extendleft(reversed(running))
                    if _is_out_of_memory(error):
                        self._halve_batch_size(len(running))
                    else:
                        n_single = len(running)
                batch, running = DecodingBatch(self._model, self._drafts), []
                continue
            unfinished = []
            for row, (request, tokens) in enumerate(zip(running, batch.generated, strict=True)):
                if len(tokens) < request.max_new_tokens and self._end_ids.isdisjoint(tokens):
                    unfinished.append(row)
                else:
                    yield request.index, self._completion(request, tokens[: request.max_new_tokens])
            if len(unfinished) < len(running):
                n_single = max(n_single - (len(running) - len(unfinished)), 0)
                running = [running[row] for row in unfinished]
                batch.select(unfinished)

    def _limits(self, *, single: bool) -> BatchLimits:
        return BatchLimits(1 if single else self._batch_size, self._max_batch_tokens)

    def _halve_batch_size(self, n_rows: int) -> None:
        self._batch_size = max(1, n_rows // 2)
        self.clear_caches()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning("out of memory: reduced the batch size to %d", self._batch_size)

    @torch.inference_mode()
    def _generate_batch(self, batch: Sequence[Request]) -> list[Completion]:
        inputs = self._inputs.padded([request.rendered for request in batch], "left")
        output = self._model.generate(**inputs, max_new_tokens=batch[0].max_new_tokens)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()  # [batch, new tokens]
        return [self._completion(request, ids) for request, ids in zip(batch, new, strict=True)]

    def _completion(self, request: Request, ids: list[int]) -> Completion:
        content = list(itertools.takewhile(lambda token: token not in self._end_ids, ids))
        text = self._renderer.decode_answer(content)
        ended = len(content) < len(ids)
        return Completion(
            text=text.strip(),
            prompt_tokens=len(request.rendered.input_ids),
            output_tokens=len(content) + ended,
            finish_reason="stop" if ended else "length",
            trimmed=request.rendered.trimmed,
        )

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[Request], choices: Sequence[str]) -> list[ChoiceScores]:
        ids = torch.tensor(
            [self._renderer.choice_ids(request.rendered.input_ids, choices) for request in batch],
            device=self._model.device,
        )  # [batch, choices]
        # A single prompt, as after a failed batch, runs in full, independently of other prompts.
        shared = (len(batch) > 1 or self._cache.max_bytes > 0) and batch[0].n_shared > 0
        read = self._inputs.of_suffixes if shared else self._inputs.of_prompts
        inputs, last, offsets = read(batch)
        if store := not shared and self._cache.max_bytes > 0 and self._cache.can_cut:
            inputs["past_key_values"] = self._reader.new_cache()
        with logits_at(self._model, last), float32_choices(self._model, ids):
            output = self._model(**inputs, use_cache=store)
        logits = output.logits  # [batch, 1, vocabulary]
        if store:
            states = self._reader.read(inputs["past_key_values"], offsets)
            for row, request in enumerate(batch):
                self._cache.put(
                    request.rendered.images, request.rendered.input_ids, states.row(row)
                )
        first_ids = logits[:, 0].argmax(dim=-1).tolist()
        log_probs = logits[:, 0].float().log_softmax(dim=-1).gather(1, ids)  # [batch, choices]
        scores = []
        for request, row, first in zip(batch, log_probs.double().tolist(), first_ids, strict=True):
            n_tokens = len(request.rendered.input_ids)
            error = None
            if not all(-float("inf") < value <= 0.0 for value in row):
                error = f"The model's log-probabilities are {row}; they must be finite."
            elif first in self._renderer.thought_ids:
                error = (
                    f"The model begins its answer with {self._renderer.tokenizer.decode([first])}, "
                    f"so its first token does not answer {' or '.join(choices)}. Use a model "
                    "without thoughts, or fine-tune this one."
                )
            scores.append(ChoiceScores(() if error else tuple(row), n_tokens, error=error))
        return scores


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _failed_completion(error: Exception) -> Completion:
    return Completion("", finish_reason="error", error=first_line(error))


def _failed_scores(error: Exception) -> ChoiceScores:
    return ChoiceScores((), error=first_line(error))
