"""Backend for OpenAI-compatible endpoints: vLLM, SGLang, llama.cpp, Ollama, hosted services.

Prompts are sent concurrently, up to what the server can handle, and a failed request only fails its
own prompt. The capabilities of a server are probed: whether it supports images, and how it returns
the probabilities of yes and no (equation (1) of the paper). On the endpoint, a fine-tuned adapter
is a model with its own name. `_http/chat_format.py` converts prompts and responses,
`_http/client.py` sends requests, and `_http/retry.py` contains the retry policy.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, final

from pydantic import AfterValidator, Field, PlainValidator, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

from mllm_msr.backends._http import chat_format, probes
from mllm_msr.backends._http.async_bridge import LoopThread
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.client import Endpoint, RetriesExhaustedError, parse_url
from mllm_msr.backends._http.cut_thoughts import CutThoughts
from mllm_msr.backends._http.parameters import RequestParameters
from mllm_msr.backends._http.probes import ScoringPlan
from mllm_msr.backends._http.responses import RequestRejectedError
from mllm_msr.backends._http.retry import Timing
from mllm_msr.backends._http.scorer import Scorer
from mllm_msr.backends._http.scoring_routes import CHAT, Post
from mllm_msr.errors import BackendError, CapabilityError, ImageError, PromptTooLongError
from mllm_msr.interfaces import Backend, Capabilities
from mllm_msr.storage import atomic
from mllm_msr.types import ChoiceScores, Completion, Prompt

_Result = TypeVar("_Result")

_TOO_LONG: Final = re.compile(
    r"context.{0,20}(length|window|size)|too (long|large|many tokens)|max_model_len|longer than",
    re.IGNORECASE,
)
# Failures of single prompts.
_PROMPT_ERRORS: Final = (
    RequestRejectedError,
    RetriesExhaustedError,
    ImageError,
    PromptTooLongError,
)
_CHOICES: Final = ("yes", "no")


def _check_url(url: str) -> str:
    try:
        parse_url(url)
    except BackendError as error:
        raise PydanticCustomError("url", "{reason}", {"reason": str(error)}) from None
    return url


def _check_timing(timing: object) -> object:
    if timing is None or isinstance(timing, Timing):
        return timing
    raise PydanticCustomError("timing", "only tests set this argument.")


Url = Annotated[str, AfterValidator(_check_url)]


@final
class OpenAIBackend(Backend):
    """Model behind an endpoint, connected for the first prompt.

    Args:
        checkpoint: Name of the model on the endpoint. vLLM uses the checkpoint's name by default,
            so the same setting works for the backend `huggingface`.
        url: Address of the endpoint up to and including the API version.
        key_variable: Environment variable with the API key, if one is needed.
        adapter: Folder of a fine-tuned LoRA adapter, or a model name that the endpoint knows. A
            folder's adapter is requested under the name that `adapter_name` returns. If the
            endpoint does not offer it, the backend asks it to load the adapter.
        images: Whether the model supports images; probed if None.
        scoring: How yes and no are scored: "token_ids" (exact; vLLM), "top_logprobs" (exact if
            both are among the most probable tokens, otherwise an upper bound), or "auto": these,
            and between them the scoring routes of vLLM and SGLang.
        concurrency: Maximum number of concurrent requests.
        timeout: Seconds for one attempt.
        attempts: Maximum number of attempts for one prompt.
        total_timeout: Maximum seconds of waiting between the attempts for one prompt; also the
            duration of an endpoint outage after which the run fails.
        characters_per_token: Average length of a token, to estimate a prompt's text tokens.
        extra: Additional fields of every request ({"repetition_penalty": 1.0}); null removes a
            field ({"temperature": null}).
        timing: Clock, sleep and randomness, for tests.

    Raises:
        BackendError: The address is invalid or contains a password.
    """

    def __init__(
        self,
        checkpoint: Annotated[str, Field(min_length=1)],
        *,
        url: Url = "http://127.0.0.1:8000/v1",
        key_variable: str = "OPENAI_API_KEY",
        adapter: Path | str | None = None,
        images: bool | None = None,
        scoring: Literal["auto", "token_ids", "top_logprobs"] = "auto",
        concurrency: Annotated[int, Field(ge=1, le=10_000)] = 32,
        timeout: PositiveFloat = 120.0,
        attempts: PositiveInt = 6,
        total_timeout: PositiveFloat = 300.0,
        characters_per_token: PositiveFloat = 3.5,
        extra: Mapping[str, object] | None = None,
        timing: Annotated[Timing | None, PlainValidator(_check_timing)] = None,
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
        self._scoring_method = scoring
        self._concurrency = concurrency
        self._characters_per_token = characters_per_token
        self._extra = dict(extra or {})
        self._parameters = RequestParameters(self._extra)
        self._image_refusal = "set by images=False"
        self._scorer = Scorer(
            probe=self._probe_scoring,
            ask=self._score_by_chat,
            post=functools.partial(self._post, parse=dict),
            fit=self._fit_budget,
        )
        self._cut_thoughts = CutThoughts(lambda: self._probe(probes.opens_thoughts))
        self._adapter_verified = False
        self._loop: LoopThread | None = None
        self._closed = False

    @classmethod
    def trainable_checkpoint(cls, **model_kwargs: Any) -> str | None:
        """Return `checkpoint`, since endpoints usually serve a model under its hub id.

        Fine-tuning runs in this process, and the endpoint then serves the adapter.
        """
        checkpoint = model_kwargs.get("checkpoint")
        return str(checkpoint) if checkpoint else None

    @classmethod
    def with_adapter(
        cls, model_kwargs: Mapping[str, Any], adapter: Path, method: Literal["lora", "full"]
    ) -> dict[str, Any]:
        """Return the arguments with `adapter` (LoRA) or `checkpoint` (full fine-tuning) set."""
        if method == "lora":
            return {**model_kwargs, "adapter": adapter}
        return {**model_kwargs, "checkpoint": str(adapter)}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the model, the adapter and the extra fields.

        The address is not included, since it may change between runs.
        """
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
        """Probe what the endpoint supports; the first use sends requests.

        Raises:
            BackendError: The endpoint cannot be reached or does not know the model.
        """
        images, scoring = self._supports_images(), self._scoring_detail()
        return Capabilities(
            images=images, choices=scoring is not None, adapters=True, scoring=scoring or ""
        )

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Completion]]:
        """Answer prompts with temperature 0, in order of completion."""
        return self._map(prompts, self._complete)

    def score(
        self, prompts: Iterable[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[int, ChoiceScores]]:
        """Compute log-probabilities of the choices, with `upper_bound` set if one is a bound."""
        words = tuple(choices)
        return self._map(prompts, lambda prompt: self._score(prompt, words))

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

    def _open_loop(self) -> LoopThread:
        if self._closed:
            raise BackendError("The backend is closed. Create a new one.")
        if self._loop is None:
            self._loop = LoopThread()
        return self._loop

    def _map(
        self,
        prompts: Iterable[Prompt],
        function: Callable[[Prompt], Coroutine[Any, Any, _Result]],
    ) -> Iterator[tuple[int, _Result]]:
        # Twice the number of concurrent requests, so that the next prompts are already prepared.
        yield from self._open_loop().map_unordered(
            map(self._check, prompts), function, max_concurrent=2 * self._concurrency
        )

    def _check(self, prompt: Prompt) -> Prompt:
        chat_format.require_no_vectors(prompt)
        if prompt.images and not self._supports_images():
            raise CapabilityError(
                f"{self.fingerprint} rejects images ({self._image_refusal}), but the prompt has "
                f"the image {prompt.images[0].name}. Use a multimodal model, or prompts without "
                "images (summarize.modalities=[text])."
            )
        return prompt

    def _supports_images(self) -> bool:
        if self._images is None:
            refusal = self._open_loop().run(self._probe(probes.find_image_refusal))
            self._images, self._image_refusal = refusal is None, (refusal or "").rstrip(".")
        return self._images

    def _scoring_detail(self) -> str | None:
        """Return how the endpoint scores answers, or None if it cannot."""
        try:
            return self._open_loop().run(self._scorer.find_plan(_CHOICES)).detail
        except CapabilityError:
            return None

    async def _probe(self, probe: Callable[[Post], Coroutine[Any, Any, _Result]]) -> _Result:
        """Run a probe, which posts requests for this model."""

        async def post(route: str, fields: Mapping[str, object]) -> dict[str, Any]:
            return await self._post(
                route, fields, chat_format.require_choice if route == CHAT else dict
            )

        try:
            return await probe(post)
        except RetriesExhaustedError as error:
            check = "Check that the server is running and that its address is correct."
            if error.is_slow:
                check += " If it loads the model with the first request, try again after that."
            raise BackendError(
                f"The endpoint at {self._endpoint.name} does not answer: {error}. {check}"
            ) from None
        except RequestRejectedError as error:
            raise self._fatal_error(error) or BackendError(
                f"The endpoint at {self._endpoint.name} rejects every request: {error}. Check the "
                "model's name and the fields in model.extra."
            ) from None

    async def _model_name(self) -> str:
        """Return the model to request, after ensuring that the endpoint offers the adapter."""
        if self._adapter is None:
            return self._checkpoint
        if not self._adapter_verified and Path(self._adapter).is_dir():
            await probes.ensure_adapter(self._endpoint, self._adapter_name, Path(self._adapter))
        self._adapter_verified = True
        return self._adapter_name

    async def _probe_scoring(self, choices: tuple[str, ...]) -> ScoringPlan:
        probe = functools.partial(
            probes.find_scoring,
            choices=choices,
            method=self._scoring_method,
            name=self.fingerprint,
            # SGLang requests an adapter as "model:adapter".
            has_adapter=self._adapter is not None or ":" in self._checkpoint,
        )
        return await self._probe(probe)

    async def _complete(self, prompt: Prompt) -> Completion:
        try:
            sent, completion = await self._request(
                prompt, {"temperature": 0}, chat_format.parse_completion, limit_length=True
            )
            completion = await self._cut_thoughts.restore(completion)
            return replace(completion, trimmed=sent != prompt)
        except _PROMPT_ERRORS as error:
            return Completion("", finish_reason="error", error=str(error))

    async def _score(self, prompt: Prompt, choices: tuple[str, ...]) -> ChoiceScores:
        try:
            return await self._scorer.score(prompt, choices)
        except _PROMPT_ERRORS as error:
            return ChoiceScores((), error=str(error))

    async def _score_by_chat(self, prompt: Prompt, scoring: Scoring) -> ChoiceScores:
        parse = functools.partial(chat_format.parse_scores, scoring=scoring)
        _, scores = await self._request(prompt, scoring.fields(), parse, limit_length=False)
        return scores

    def _fit_budget(self, prompt: Prompt) -> Prompt:
        return chat_format.fit_budget(prompt, characters_per_token=self._characters_per_token)

    async def _request(
        self,
        prompt: Prompt,
        fields: Mapping[str, object],
        parse: Callable[[dict[str, Any]], _Result],
        *,
        limit_length: bool,
    ) -> tuple[Prompt, _Result]:
        """Send a prompt; truncate it once if the endpoint rejects it as too long.

        Returns:
            The prompt that the endpoint answered, and its response.
        """
        prompt = self._fit_budget(prompt)
        length = {"max_tokens": prompt.max_new_tokens} if limit_length else {}
        current: Prompt | None = prompt
        while current is not None:
            turns = await asyncio.to_thread(chat_format.messages, current)
            try:
                sent = {"messages": turns, **fields, **length}
                return current, await self._post(CHAT, sent, parse)
            except RequestRejectedError as error:
                if fatal := self._fatal_error(error):
                    raise fatal from None
                if not _TOO_LONG.search(str(error)) or current is not prompt:
                    raise
                current = chat_format.halve(prompt)
                if current is None:
                    raise
        raise AssertionError  # the loop returns or raises

    async def _post(
        self,
        route: str,
        fields: Mapping[str, object],
        parse: Callable[[dict[str, Any]], _Result],
    ) -> _Result:
        """Send a request with parameters that the endpoint accepts."""
        while True:
            body = self._parameters.apply({"model": await self._model_name(), **fields})
            try:
                return await self._endpoint.request(route, body, parse)
            except RequestRejectedError as error:
                if not self._parameters.adapt(body, error):
                    raise

    def _fatal_error(self, error: RequestRejectedError) -> BackendError | None:
        """Return the error that ends the run if the endpoint would reject every request."""
        if error.concerns_all:
            return BackendError(
                f"The endpoint at {self._endpoint.name} denies access: {error}. Check the credit "
                f"of the account, and set the environment variable {self._endpoint.key_variable} "
                "to a valid API key."
            )
        if error.status == 404:
            return BackendError(
                f"The endpoint at {self._endpoint.name} does not offer the model "
                f"{self._checkpoint!r}: {error}. Check the model's name and the address, which "
                "must end with the API version."
            )
        return None


def adapter_name(adapter: Path | str) -> str:
    """Return an adapter's name on an endpoint: as given, or derived from a folder's content.

    Args:
        adapter: Folder in PEFT's format, or a model name that the endpoint knows.
    """
    folder = Path(adapter)
    return f"mllm-msr-{atomic.content_hash(folder)[0][:12]}" if folder.is_dir() else str(adapter)
