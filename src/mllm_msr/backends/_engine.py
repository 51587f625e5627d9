"""Runs a loaded checkpoint over many prompts: look-ahead, sorting, batching, memory limits.

Shared by the backends that hold a model in this process. Prompts are read a window ahead, sorted
by length so that little is padding, and cut to batches by a budget of tokens; prompts to be scored
are sorted by what they begin with instead, where the model lets `_prefixes.py` share that. A batch
that does not fit into memory is halved, and the smaller size is remembered. The paper's yes / no
probability (section 3.3.2) is read here, from the logits of the first new token.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from mllm_msr.backends._prefixes import PrefixStates, arrange, can_share, prefix_of, split
from mllm_msr.checkpoints import LoadedCheckpoint
from mllm_msr.errors import AnswerTokenError, BackendError, MllmMsrError
from mllm_msr.records import ChoiceScores, Completion, Prompt
from mllm_msr.rendering import Rendered, Renderer

_Result = TypeVar("_Result", Completion, ChoiceScores)

_LOG: Final = logging.getLogger(__name__)

# Batches that are sorted together: more saves padding, fewer gives first results sooner.
_BATCHES_AHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    rendered: Rendered
    max_new_tokens: int
    n_shared: int = 0  # first tokens that its neighbours have too

    @property
    def n_tokens(self) -> int:
        return len(self.rendered.input_ids) + self.max_new_tokens


class Engine:
    """One model, driven for its backend.

    Args:
        loaded: The checkpoint.
        batch_size: Most prompts in a batch.
        max_batch_tokens: Most tokens in a batch, padding and new tokens included; a prompt
            longer than that runs alone.
    """

    def __init__(
        self,
        loaded: LoadedCheckpoint,
        *,
        batch_size: int = 16,
        max_batch_tokens: int = 16_384,
    ) -> None:
        self._model: Any = loaded.model
        self._batch_size = batch_size
        self._max_batch_tokens = max_batch_tokens
        limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
        self._renderer = Renderer(
            loaded.processor, supports_images=loaded.supports_images, max_tokens=limit
        )
        self._shares = can_share(loaded.model.config)
        self._states = PrefixStates()
        self._end_ids = _end_ids(loaded)
        # What a checkpoint suggests about sampling and penalties is put aside: answers are greedy.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False,
            eos_token_id=sorted(self._end_ids) or None,
            pad_token_id=self._renderer.pad_id,
        )

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """See `Backend.generate`."""
        return self._run(prompts, self._generate_batch, _failed_completion, answers=True)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """See `Backend.score`."""

        def work(batch: Sequence[_Job]) -> list[ChoiceScores]:
            return self._score_batch(batch, choices)

        return self._run(prompts, work, _failed_scores, answers=False)

    def close(self) -> None:
        """Let the model go."""
        self._model = None
        self._states.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self,
        prompts: Iterable[Prompt],
        work: Callable[[Sequence[_Job]], list[_Result]],
        failed: Callable[[Exception], _Result],
        *,
        answers: bool,
    ) -> Iterator[tuple[int, _Result]]:
        """Yield (index, result) for every prompt, batch by batch."""
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
                    jobs.append(_Job(index, rendered, prompt.max_new_tokens if answers else 0))
            # The longest first: what does not fit into memory shows at once.
            jobs.sort(key=lambda job: (job.max_new_tokens, job.n_tokens), reverse=True)
            if self._shares and not answers:
                jobs = self._side_by_side(jobs)
            yield from self._work_off(deque(jobs), work, failed)
            self._states.clear()

    def _side_by_side(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Prompts that begin alike after one another, those that stand alone last."""
        places = arrange(
            [job.rendered for job in jobs],
            image_token_id=getattr(self._model.config, "image_token_id", None),
        )
        return [replace(jobs[place], n_shared=n_shared) for place, n_shared in places]

    def _read_ahead(
        self, numbered: Iterator[tuple[int, Prompt]]
    ) -> list[tuple[int, Prompt, Rendered | Exception]]:
        """Render the next prompts, as many as are worth sorting and whose pictures are kept."""
        window: list[tuple[int, Prompt, Rendered | Exception]] = []
        pictures = self._renderer.pictures
        # Half of the cache, so that the last picture does not push out the first.
        enough = pictures.n_prepared_bytes + pictures.max_bytes // 2
        for index, prompt in itertools.islice(numbered, self._batch_size * _BATCHES_AHEAD):
            self._renderer.check(prompt)
            try:
                window.append((index, prompt, self._renderer.render(prompt)))
            except (MllmMsrError, ValueError) as error:
                window.append((index, prompt, error))
            if pictures.n_prepared_bytes >= enough:
                break
        return window

    def _work_off(
        self,
        jobs: deque[_Job],
        work: Callable[[Sequence[_Job]], list[_Result]],
        failed: Callable[[Exception], _Result],
    ) -> Iterator[tuple[int, _Result]]:
        alone = 0  # jobs at the front that failed together and are tried one by one
        while jobs:
            batch = self._next_batch(jobs, limit=1 if alone else self._batch_size)
            alone = max(alone - 1, 0)
            try:
                results = work(batch)
            except AnswerTokenError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError, MllmMsrError) as error:
                if len(batch) > 1:
                    jobs.extendleft(reversed(batch))
                    if _is_out_of_memory(error):
                        self._halve(len(batch))
                    else:
                        alone = len(batch)
                    continue
                results = [failed(error)]
            yield from zip((job.index for job in batch), results, strict=True)

    def _next_batch(self, jobs: deque[_Job], *, limit: int) -> list[_Job]:
        """Take jobs of one kind from the front, as many as the budget of tokens allows."""
        batch = [jobs.popleft()]
        first, longest = batch[0], batch[0].n_tokens
        while jobs and len(batch) < limit:
            job = jobs[0]
            longest = max(longest, job.n_tokens)
            alike = (job.max_new_tokens, job.n_shared) == (first.max_new_tokens, first.n_shared)
            if not alike or (len(batch) + 1) * longest > self._max_batch_tokens:
                break
            batch.append(jobs.popleft())
        return batch

    def _halve(self, n_rows: int) -> None:
        self._batch_size = max(1, n_rows // 2)
        self._states.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _LOG.warning("Out of memory: going on with %d prompts a batch.", self._batch_size)

    def _inputs(
        self, batch: Sequence[Rendered], pad_side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """The model's inputs on its device, pictures in its precision."""
        inputs = self._renderer.collate(batch, pad_side=pad_side, with_answers=False)
        dtype = self._model.dtype
        return {
            name: tensor.to(self._model.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }

    @torch.inference_mode()
    def _generate_batch(self, batch: Sequence[_Job]) -> list[Completion]:
        inputs = self._inputs([job.rendered for job in batch], "left")
        output = self._model.generate(**inputs, max_new_tokens=batch[0].max_new_tokens)
        new = output[:, inputs["input_ids"].shape[1] :].tolist()  # [batch, new tokens]
        return [self._completion(job, ids) for job, ids in zip(batch, new, strict=True)]

    def _completion(self, job: _Job, ids: list[int]) -> Completion:
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
    def _score_batch(self, batch: Sequence[_Job], choices: Sequence[str]) -> list[ChoiceScores]:
        ids = torch.tensor(
            [self._renderer.choice_ids(job.rendered.input_ids, choices) for job in batch],
            device=self._model.device,
        )  # [batch, choices]
        # Alone, as after a batch that failed, a prompt depends on no other.
        shared = len(batch) > 1 and batch[0].n_shared > 0
        inputs, last = self._continued(batch) if shared else self._whole(batch)
        with _only_last_logits(self._model, last, ids):
            logits = self._model(**inputs, use_cache=False).logits  # [batch, 1, vocabulary]
        log_probs = logits[:, 0].float().log_softmax(dim=-1).gather(1, ids)  # [batch, choices]
        return [
            _scores(job, row) for job, row in zip(batch, log_probs.double().tolist(), strict=True)
        ]

    def _whole(self, batch: Sequence[_Job]) -> tuple[dict[str, Any], Tensor]:
        """Inputs of whole prompts, and where in them each one ends [batch]."""
        # Padded on the right, positions are those of the prompt alone for every kind of model.
        inputs = self._inputs([job.rendered for job in batch], "right")
        return inputs, inputs["attention_mask"].sum(dim=1) - 1

    def _continued(self, batch: Sequence[_Job]) -> tuple[dict[str, Any], Tensor]:
        """The same for what follows the shared beginnings, which the model has run over."""
        n_shared = batch[0].n_shared
        begins, rests = zip(*(split(job.rendered, n_shared) for job in batch), strict=True)

        def run(rows: Sequence[int]) -> DynamicCache:
            cache = DynamicCache()
            inputs = self._inputs([begins[row] for row in rows], "right")
            self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            return cache

        states = self._states.for_rows([prefix_of(begin) for begin in begins], run)
        inputs = self._inputs(rests, "right")
        mask = inputs["attention_mask"]
        seen = mask.new_ones(len(batch), n_shared)
        inputs["attention_mask"] = torch.cat([seen, mask], dim=1)  # [batch, shared + length]
        return {**inputs, "past_key_values": states}, mask.sum(dim=1) - 1


@contextlib.contextmanager
def _only_last_logits(model: Any, last: Tensor, ids: Tensor) -> Iterator[None]:
    """Let a model compute logits for one position of each row alone, and precisely.

    The output layer then sees [batch, 1, hidden]. In half precision its logits are too coarse to
    tell candidates apart (near 20, bfloat16 has steps of 1/8), so those of the choices are
    computed again in float32, before whatever scaling the model applies to its logits.

    Args:
        model: A causal language model.
        last: Position of each row's last token [batch].
        ids: The choices' token ids [batch, choices].
    """
    rows = torch.arange(len(last), device=last.device)

    def keep_last(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][rows, last].unsqueeze(1), *args[1:])

    def refine(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if output.dtype == torch.float32 or type(layer) is not nn.Linear:
            return output.float()
        logits = output.float()  # [batch, 1, vocabulary]
        weight = layer.weight[ids].float()  # [batch, choices, hidden]
        fine = torch.einsum("bh,bch->bc", args[0][:, 0].float(), weight)
        if layer.bias is not None:
            fine = fine + layer.bias[ids].float()
        logits[:, 0] = logits[:, 0].scatter(1, ids, fine)
        return logits

    layer = model.get_output_embeddings()
    hooks = [layer.register_forward_pre_hook(keep_last), layer.register_forward_hook(refine)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _end_ids(loaded: LoadedCheckpoint) -> frozenset[int]:
    """Ids that end an answer: those of the generation settings and of the tokenizer."""
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    configured = loaded.model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _scores(job: _Job, log_probs: list[float]) -> ChoiceScores:
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
