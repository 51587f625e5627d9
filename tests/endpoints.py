"""A real HTTP server on loopback that answers as a test says: a model's replies, or faults."""

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
class Asked:
    """A request as the server got it."""

    path: str
    body: dict[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """What the server sends, and how badly.

    Attributes:
        body: JSON, or bytes as they are.
        cut: Bytes of the body after which the connection is closed; `None` sends all.
        delay: Seconds before anything is sent.
    """

    body: dict[str, Any] | bytes = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    delay: float = 0.0


Respond = Callable[[Asked], Reply]


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Its address with the version, as `OpenAIBackend` takes it.
        history: Every request, in the order in which they came.
        most_at_once: Most requests that were being answered at the same time.
    """

    url: str
    history: list[Asked] = field(default_factory=list)
    most_at_once: int = 0

    def paths(self) -> list[str]:
        return [asked.path for asked in self.history]


@contextlib.contextmanager
def serve(respond: Respond) -> Iterator[Server]:
    """Run a server for the time of the block."""
    lock = threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            nonlocal under_way
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = Asked(self.path, json.loads(content or b"{}"), dict(self.headers))
            with lock:
                server.history.append(asked)
                under_way += 1
                server.most_at_once = max(server.most_at_once, under_way)
            try:
                self._send(respond(asked))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    under_way -= 1

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            body = reply.body
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: reply.cut])
            self.close_connection = reply.cut is not None

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    listening = Quiet(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listening.server_address[1]}/v1")
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


def said(text: str, *, finish: str = "stop", read: int = 7, written: int = 3) -> Reply:
    """A complete answer."""
    return Reply(
        {
            "choices": [{"message": {"content": text}, "finish_reason": finish}],
            "usage": {"prompt_tokens": read, "completion_tokens": written},
        }
    )


def listed(entries: Mapping[str, float], *, read: int = 7) -> Reply:
    """An answer with the log-probabilities of the first token's baselines, the first one chosen."""
    top = [{"token": token, "logprob": value} for token, value in entries.items()]
    body = dict(said(top[0]["token"], read=read).body)  # type: ignore[arg-type]
    body["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    return Reply(body)


def refused(reason: str, status: int = 400, **headers: str) -> Reply:
    """An error in the form that OpenAI gave it."""
    return Reply({"error": {"message": reason, "code": None}}, status=status, headers=headers)


def question(asked: Asked) -> str:
    """The text of the last turn of a chat request."""
    content = asked.body["messages"][-1]["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


class ModelServer:
    """Answers with a real model, in the forms of vLLM: a second road to the same weights.

    It computes alone and plainly: one prompt at a time, no prefix is shared, nothing is batched.

    Args:
        checkpoint: Folder of the model; its name is `name`.
        scratch: Where images are put.
        token_ids: Whether it knows `logprob_token_ids` and `/tokenize`.
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

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply({"data": [{"id": self.name}]})
        if asked.body.get("model") != self.name:
            return refused(f"the model {asked.body.get('model')!r} does not exist", 404)
        with self._lock:
            if asked.path == "/tokenize" and self._token_ids:
                return self._tokenize(asked.body)
            if asked.path == "/v1/chat/completions":
                return self._answer(asked.body)
        return refused("no such route", 404)

    def _tokenize(self, body: Mapping[str, Any]) -> Reply:
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
        return Reply({"tokens": ids, "count": len(ids)})

    def _answer(self, body: Mapping[str, Any]) -> Reply:
        import torch

        from mllm_msr.errors import CapabilityError

        try:
            rendered = self._renderer.render(self._prompt(body["messages"]))
        except CapabilityError as error:
            return refused(str(error))
        inputs = self._renderer.collate([rendered], pad_side="right", with_answers=False)
        n_read = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            if body.get("logprobs"):
                logits = self._loaded.model(**inputs).logits[0, -1].double()
                return self._listed(logits.log_softmax(-1), body, n_read)
            output = self._loaded.model.generate(
                **inputs, max_new_tokens=body["max_tokens"], do_sample=False
            )[0, n_read:].tolist()
        ended = output[-1] == self._renderer.tokenizer.eos_token_id
        text = self._renderer.tokenizer.decode(output, skip_special_tokens=True)
        finish = "stop" if ended else "length"
        return said(text, finish=finish, read=n_read, written=len(output))

    def _listed(self, log_probs: Any, body: Mapping[str, Any], n_read: int) -> Reply:
        if ids := body.get("logprob_token_ids"):
            if not self._token_ids:
                return refused("unexpected field logprob_token_ids", 422)
            return listed({f"token_id:{i}": float(log_probs[i]) for i in ids}, read=n_read)
        values, ids = log_probs.topk(body["top_logprobs"])
        tokens = [self._renderer.tokenizer.decode([i]) for i in ids.tolist()]
        return listed(dict(zip(tokens, values.tolist(), strict=True)), read=n_read)

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
