"""HTTP server on loopback for tests of API clients: predefined responses, or a real model."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class HttpRequest:
    """A request that the server received."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class HttpResponse:
    """Response of the server.

    Attributes:
        body: JSON object, or raw bytes.
        cut: Number of bytes after which the connection is closed; None sends the whole body.
        delay: Seconds before the response is sent.
    """

    body: dict[str, Any] | bytes = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0


RequestHandler = Callable[[HttpRequest], HttpResponse]


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Address with the API version, as `OpenAIBackend` expects it.
        history: Every request, in the order of arrival.
        max_concurrent: Maximum number of requests that were processed at the same time.
    """

    url: str
    history: list[HttpRequest] = field(default_factory=list)
    max_concurrent: int = 0

    def paths(self) -> list[str]:
        return [request.path for request in self.history]


@contextlib.contextmanager
def serve(handle: RequestHandler) -> Iterator[Server]:
    """Run a server for the duration of a `with` block."""
    lock = threading.Lock()
    n_running = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            nonlocal n_running
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = HttpRequest(self.path, json.loads(content or b"{}"), dict(self.headers))
            with lock:
                server.history.append(request)
                n_running += 1
                server.max_concurrent = max(server.max_concurrent, n_running)
            try:
                self._send(handle(request))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    n_running -= 1

        def _send(self, response: HttpResponse) -> None:
            time.sleep(response.delay)
            body = response.body
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: response.cut])
            self.close_connection = response.cut is not None

    class QuietServer(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    http_server = QuietServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http_server.server_address[1]}/v1")
    thread = threading.Thread(target=http_server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()


def completion_response(
    text: str, *, finish: str = "stop", n_prompt: int = 7, n_output: int = 3
) -> HttpResponse:
    """Return a chat completion."""
    return HttpResponse(
        {
            "choices": [{"message": {"content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": n_prompt, "completion_tokens": n_output},
        }
    )


def logprobs_response(entries: Mapping[str, float], *, n_prompt: int = 7) -> HttpResponse:
    """Return a completion with log-probabilities; the first token is the generated one."""
    top = [{"token": token, "logprob": value} for token, value in entries.items()]
    body = dict(completion_response(top[0]["token"], n_prompt=n_prompt).body)  # type: ignore[arg-type]
    body["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return HttpResponse(body)


def error_response(reason: str, status: int = 400, **headers: str) -> HttpResponse:
    """Return an error in OpenAI's format."""
    return HttpResponse(
        {"error": {"message": reason, "code": None}}, status=status, headers=headers
    )


def last_text(request: HttpRequest) -> str:
    """Return the text of the last message of a chat request."""
    content = request.body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class ModelServer:
    """Request handler that runs a real model and responds in vLLM's format.

    A reference implementation that processes one prompt at a time, without batching or prefix
    sharing.

    Args:
        checkpoint: Folder of the model, which is served as `name`.
        scratch: Folder for received images.
        token_ids: Whether the server supports `logprob_token_ids` and `/tokenize`.
    """

    name = "tiny"

    def __init__(self, checkpoint: Path, scratch: Path, *, token_ids: bool = True) -> None:
        from mllm_msr.models.inputs import Renderer
        from mllm_msr.models.loading import load_model

        self._loaded = load_model(str(checkpoint), dtype="float32", device="cpu")
        self._renderer = Renderer(
            self._loaded.processor, supports_images=self._loaded.supports_images
        )
        self._scratch = scratch
        self._token_ids = token_ids
        self._lock = threading.Lock()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/v1/models":
            return HttpResponse({"data": [{"id": self.name}]})
        if request.body.get("model") != self.name:
            return error_response(f"the model {request.body.get('model')!r} does not exist", 404)
        with self._lock:
            if request.path == "/tokenize" and self._token_ids:
                return self._tokenize(request.body)
            if request.path == "/v1/chat/completions":
                return self._answer(request.body)
            if request.path in ("/generative_scoring", "/v1/score") and self._token_ids:
                return self._score(request.path, request.body)
        return error_response("no such route", 404)

    def _tokenize(self, body: Mapping[str, Any]) -> HttpResponse:
        turns = [
            {**t, "content": [{"type": "text", "text": t["content"]}]} for t in body["messages"]
        ]
        if not isinstance(self._loaded.processor, type(self._renderer.tokenizer)):
            owner = self._loaded.processor
        else:
            owner, turns = self._renderer.tokenizer, list(body["messages"])
        text = owner.apply_chat_template(
            turns,
            add_generation_prompt=body["add_generation_prompt"],
            continue_final_message=body["continue_final_message"],
            tokenize=False,
        )
        ids = self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        return HttpResponse({"tokens": ids, "count": len(ids)})

    def _score(self, path: str, body: Mapping[str, Any]) -> HttpResponse:
        """Answer in the format of vLLM (`/generative_scoring`) or SGLang (`/v1/score`)."""
        import torch

        (item,) = body["items"]
        ids = torch.tensor([[*body["query"], *item]])
        with torch.inference_mode():
            logits = self._loaded.model(input_ids=ids).logits[0, -1].double()
        scores = logits.softmax(-1)[body["label_token_ids"]].tolist()
        if path == "/v1/score":
            return HttpResponse({"scores": [scores], "object": "scoring", "usage": None})
        entry = {"index": 0, "object": "score", "score": scores[0]}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": 1}
        return HttpResponse({"object": "list", "data": [entry], "usage": usage})

    def _answer(self, body: Mapping[str, Any]) -> HttpResponse:
        import torch

        from mllm_msr.errors import CapabilityError

        try:
            rendered = self._renderer.render(self._prompt(body["messages"]))
        except CapabilityError as error:
            return error_response(str(error))
        inputs = self._renderer.collate([rendered], pad_side="right", with_answers=False)
        n_prompt = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            if body.get("logprobs"):
                logits = self._loaded.model(**inputs).logits[0, -1].double()
                return self._logprobs(logits.log_softmax(-1), body, n_prompt)
            output = self._loaded.model.generate(
                **inputs, max_new_tokens=body["max_tokens"], do_sample=False
            )[0, n_prompt:].tolist()
        ended = output[-1] == self._renderer.tokenizer.eos_token_id
        text = self._renderer.tokenizer.decode(output, skip_special_tokens=True)
        finish = "stop" if ended else "length"
        return completion_response(text, finish=finish, n_prompt=n_prompt, n_output=len(output))

    def _logprobs(self, log_probs: Any, body: Mapping[str, Any], n_prompt: int) -> HttpResponse:
        if ids := body.get("logprob_token_ids"):
            if not self._token_ids:
                return error_response("unexpected field logprob_token_ids", 422)
            return logprobs_response(
                {f"token_id:{i}": float(log_probs[i]) for i in ids}, n_prompt=n_prompt
            )
        values, ids = log_probs.topk(body["top_logprobs"])
        tokens = [self._renderer.tokenizer.decode([i]) for i in ids.tolist()]
        return logprobs_response(dict(zip(tokens, values.tolist(), strict=True)), n_prompt=n_prompt)

    def _prompt(self, turns: Sequence[Mapping[str, Any]]) -> Any:
        from mllm_msr.types import ImagePart, Message, Part, Prompt, TextPart

        messages = []
        for turn in turns:
            parts: list[Part] = []
            content = turn["content"]
            for part in (
                [{"type": "text", "text": content}] if isinstance(content, str) else content
            ):
                if part["type"] == "text":
                    parts.append(TextPart(part["text"]))
                    continue
                image = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                path = self._scratch / hashlib.sha256(image).hexdigest()
                path.write_bytes(image)
                parts.append(ImagePart(path))
            messages.append(Message(turn["role"], tuple(parts)))
        return Prompt(tuple(messages))
