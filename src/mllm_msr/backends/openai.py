"""Any OpenAI-compatible endpoint as a backend: vLLM, SGLang, llama.cpp, Ollama, hosted ones.

Prompts go out beside each other, as many as the server bears, and their failures come back as
failures of those prompts. What a server can do is asked of it, not assumed: whether it reads
images, and how it tells the probabilities of yes and no (equation (1) of the paper). An adapter
made by fine-tuning is a model of its own name there. The forms of requests and replies are
`_chat.py`, the network is `_endpoint.py`, its rhythm is `_pacing.py`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, final

from mllm_msr.backends._http import chat_format, probes
from mllm_msr.backends._http.async_bridge import LoopThread
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.client import Endpoint, RefusedError, UnansweredError
from mllm_msr.backends._http.retry import Timing
from mllm_msr.errors import BackendError, CapabilityError, ImageError, PromptTooLongError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.storage import atomic
from mllm_msr.types import ChoiceScores, Completion, Prompt

_Result = TypeVar("_Result")

_CHAT: Final = "chat/completions"
_TOO_LONG: Final = re.compile(
    r"context.{0,20}(length|window|size)|too (long|large|many tokens)|max_model_len|longer than",
    re.IGNORECASE,
)
_FAILURES: Final = (RefusedError, UnansweredError, ImageError, PromptTooLongError)
_CHOICES: Final = ("yes", "no")


@final
class OpenAIBackend(Backend):
    """A model behind an endpoint; asked nothing before it has something to answer.

    Args:
        checkpoint: Name under which the endpoint offers the model; on vLLM, unless it was given
            another, the checkpoint's own, so that `huggingface` takes the same setting.
        url: The endpoint's address, up to and including its version.
        key_variable: Environment variable that holds the key, where one is needed.
        adapter: Folder of a LoRA adapter that fine-tuning made, or a name that the endpoint
            knows. A folder's adapter is asked for by the name `adapter_name` gives it; if the
            endpoint does not offer it, it is asked to load it.
        images: Whether the model reads images; asked of the endpoint where empty.
        scoring: How yes and no are read: "token_ids" (exact; vLLM), "top_logprobs" (exact where
            both are among the most probable tokens, else a bound), or "auto".
        concurrency: Most requests under way at a time.
        timeout: Seconds for one attempt.
        attempts: Most attempts for one prompt.
        total_timeout: Seconds of waiting for one prompt in all, and of failure of the endpoint as a
            whole after which the work ends.
        characters_per_token: From which a prompt's budget of text tokens is guessed.
        extra: Further fields of every request ({"repetition_penalty": 1.0}); null takes a field
            away ({"temperature": null}).
        timing: Clock, sleep and chance: for tests.

    Raises:
        BackendError: The address is none, or holds a password.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        url: str = "http://127.0.0.1:8000/v1",
        key_variable: str = "OPENAI_API_KEY",
        adapter: Path | str | None = None,
        images: bool | None = None,
        scoring: Literal["auto", "token_ids", "top_logprobs"] = "auto",
        concurrency: int = 32,
        timeout: float = 120.0,
        attempts: int = 6,
        total_timeout: float = 300.0,
        characters_per_token: float = 3.5,
        extra: Mapping[str, object] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            url,
            key_variable=key_variable,
            concurrency=concurrency,
            timeout=timeout,
            attempts=attempts,
            total_timeout=total_timeout,
            timing=timing or Timing(),
        )
        self._checkpoint = checkpoint
        self._adapter = adapter
        self._images = images
        self._scoring_form = scoring
        self._concurrency = concurrency
        self._characters_per_token = characters_per_token
        self._extra = dict(extra or {})
        self._length_field = "max_tokens"
        self._scorings: dict[tuple[str, ...], Scoring] = {}
        self._probing = asyncio.Lock()
        self._adapter_is_offered = False
        self._loop: LoopThread | None = None
        self._closed = False

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str | None:
        """Return `checkpoint`, as endpoints usually serve a model under its hub id.

        Fine-tuning runs in this process. The endpoint then serves the adapter.
        """
        checkpoint = model_kwargs.get("checkpoint")
        return str(checkpoint) if checkpoint else None

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Set `adapter` (LoRA) or `checkpoint` (full fine-tuning)."""
        if method == "lora":
            return {**model_kwargs, "adapter": adapter}
        return {**model_kwargs, "checkpoint": str(adapter)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Model, adapter and further fields; not the address, which may change between runs."""
        name = self._checkpoint
        if Path(name).is_dir():
            name = f"{Path(name).resolve().name}@{atomic.content_hash(Path(name))[0][:16]}"
        if self._adapter is not None:
            name = f"{name}+{self._adapter_name}"
        if self._extra:
            fields = json.dumps(self._extra, sort_keys=True)
            name = f"{name}/{hashlib.sha256(fields.encode()).hexdigest()[:8]}"
        return f"openai:{name}"

    @property
    def capabilities(self) -> Capabilities:
        """What the endpoint turns out to do; the first use asks it.

        Raises:
            BackendError: The endpoint cannot be reached or does not know the model.
        """
        return Capabilities(images=self._reads_images(), choices=self._can_score(), adapters=True)

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts with temperature 0, as they are finished."""
        return self._each(prompts, self._complete)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Log-probabilities of the choices as first new token; `upper_bound` if only a bound."""
        asked = tuple(choices)
        return self._each(prompts, lambda prompt: self._score(prompt, asked))

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._loop is not None:
            self._loop.run(self._endpoint.close())
            self._loop.close()
            self._loop = None

    @functools.cached_property
    def _adapter_name(self) -> str:
        return adapter_name(self._adapter) if self._adapter is not None else ""

    def _running(self) -> LoopThread:
        if self._closed:
            raise BackendError(
                needed="an open backend", received="a closed one", remedy="make a new one"
            )
        if self._loop is None:
            self._loop = LoopThread()
        return self._loop

    def _each(
        self,
        prompts: Iterable[Prompt],
        work: Callable[[Prompt], Coroutine[Any, Any, _Result]],
    ) -> Iterator[tuple[int, _Result]]:
        running = self._running()
        # Twice as many as are asked at once: the next ones are prepared meanwhile.
        yield from running.each(map(self._checked, prompts), work, ahead=2 * self._concurrency)

    def _checked(self, prompt: Prompt) -> Prompt:
        if prompt.images and not self._reads_images():
            raise CapabilityError(
                needed="a model that reads images",
                received=f"{self.fingerprint}, which refuses them, and a prompt with "
                f"{prompt.images[0].name}",
                remedy="choose a multimodal model, or leave the images out",
            )
        return prompt

    def _reads_images(self) -> bool:
        if self._images is None:
            running = self._running()
            self._images = running.run(self._probe(probes.reads_images))
        return self._images

    def _can_score(self) -> bool:
        try:
            self._running().run(self._scoring(_CHOICES))
        except CapabilityError:
            return False
        return True

    async def _probe(self, probe: Callable[[probes.Ask], Coroutine[Any, Any, _Result]]) -> _Result:
        """Ask the endpoint about itself, in its own words for this model."""

        async def ask(route: str, fields: Mapping[str, object] | None) -> dict[str, Any]:
            body = None if fields is None else {"model": await self._model(), **fields}
            return await self._fatal_or(self._endpoint.ask(route, body, dict), route=route)

        try:
            return await probe(ask)
        except UnansweredError as error:
            raise BackendError(
                needed=f"an endpoint at {self._endpoint.name} that answers",
                received=str(error),
                remedy="check that the server runs, and its address",
            ) from None

    async def _model(self) -> str:
        """The name to ask for; the endpoint is made to offer it first where it is an adapter's."""
        if self._adapter is None:
            return self._checkpoint
        if not self._adapter_is_offered and Path(self._adapter).is_dir():
            await probes.offer_adapter(self._endpoint, self._adapter_name, Path(self._adapter))
        self._adapter_is_offered = True
        return self._adapter_name

    async def _scoring(self, choices: tuple[str, ...], *, lost: Scoring | None = None) -> Scoring:
        """How these choices are scored; found out once, and again where the server changed."""
        async with self._probing:
            known = self._scorings.get(choices)
            if known is None or known == lost:
                probe = functools.partial(
                    probes.scoring, choices=choices, form=self._scoring_form, name=self.fingerprint
                )
                known = self._scorings[choices] = await self._probe(probe)
            return known

    async def _complete(self, prompt: Prompt) -> Completion:
        fields = {"temperature": 0}
        try:
            return await self._ask(prompt, fields, chat_format.read_completion, length=True)
        except _FAILURES as error:
            return Completion("", finish_reason="error", error=str(error))

    async def _score(self, prompt: Prompt, choices: tuple[str, ...]) -> ChoiceScores:
        scoring = await self._scoring(choices)
        try:
            try:
                return await self._score_by(prompt, scoring)
            except RefusedError as error:
                # It may have been restarted as another version since it was probed.
                changed = await self._scoring(choices, lost=scoring) if error.status < 500 else None
                if changed is None or changed == scoring:
                    raise
                return await self._score_by(prompt, changed)
        except _FAILURES as error:
            return ChoiceScores((), error=str(error))

    async def _score_by(self, prompt: Prompt, scoring: Scoring) -> ChoiceScores:
        read = functools.partial(chat_format.read_scores, scoring=scoring)
        return await self._ask(prompt, scoring.fields(), read, length=False)

    async def _ask(
        self,
        prompt: Prompt,
        fields: Mapping[str, object],
        read: Callable[[dict[str, Any]], _Result],
        *,
        length: bool,
    ) -> _Result:
        """Ask one prompt; shortened once where the endpoint finds it too long."""
        prompt = chat_format.shortened(prompt, characters_per_token=self._characters_per_token)
        shorter: Prompt | None = prompt
        while shorter is not None:
            body = {
                "model": await self._model(),
                "messages": await asyncio.to_thread(chat_format.messages, shorter),
                **fields,
                **({self._length_field: prompt.max_new_tokens} if length else {}),
                **self._extra,
            }
            body = {name: value for name, value in body.items() if value is not None}
            try:
                return await self._fatal_or(self._endpoint.ask(_CHAT, body, read), route=_CHAT)
            except RefusedError as error:
                if "max_completion_tokens" in str(error) and self._length_field in body:
                    self._length_field = "max_completion_tokens"
                    continue
                if not _TOO_LONG.search(str(error)) or shorter is not prompt:
                    raise
                shorter = chat_format.halved(prompt)
                if shorter is None:
                    raise
        raise AssertionError  # the loop returns or raises

    async def _fatal_or(self, asking: Coroutine[Any, Any, _Result], *, route: str) -> _Result:
        """A reply; refusals that would meet every prompt end the work instead."""
        try:
            return await asking
        except RefusedError as error:
            if error.status in (401, 403):
                raise BackendError(
                    needed=f"an endpoint at {self._endpoint.name} that lets us in",
                    received=str(error),
                    remedy=f"set the environment variable {self._endpoint.key_variable}",
                ) from None
            if error.status == 404 and route == _CHAT:
                raise BackendError(
                    needed=f"the model {self._checkpoint!r} at {self._endpoint.name}",
                    received=str(error),
                    remedy="check the address, which ends in its version, and the model's name",
                ) from None
            raise


def adapter_name(adapter: Path | str) -> str:
    """The name of an adapter on an endpoint: its own, or one made of a folder's content.

    Args:
        adapter: Folder in PEFT's format, or a name that an endpoint knows.
    """
    folder = Path(adapter)
    return f"mllm-msr-{atomic.content_hash(folder)[0][:12]}" if folder.is_dir() else str(adapter)
