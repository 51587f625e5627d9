"""Tests that the guide to the service is correct: its requests work, its tables are complete."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mllm_msr.config.settings import ServeSettings, Settings

Serve = Callable[..., TestClient]

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
GUIDE = PAGE.read_text(encoding="utf-8")


def requests(image: bytes) -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """Yield the arguments of every `curl` in the guide, and the response that it shows."""
    # Replace the demo's ids by those of this run.
    text = re.sub(r"\bv000(\d)\b", r"item\1", re.sub(r"\bu000(\d)\b", r"user\1", GUIDE))
    text = re.sub(r"\$\(base64[^)]*\)", base64.b64encode(image).decode(), text)
    blocks = re.findall(r"```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?", text, re.DOTALL)
    for block, response in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["curl"]:
                yield words[1:], json.loads(response) if response else None


def send(web: TestClient, words: Sequence[str]) -> Any:
    """Send the request that curl would send, and return the response."""
    arguments = iter(words)
    method, headers, body, url = "GET", {}, None, ""
    for word in arguments:
        if word == "-X":
            method = next(arguments)
        elif word == "-H":
            name, _, value = next(arguments).partition(": ")
            headers[name] = value
        elif word == "-d":
            method, body = "POST", next(arguments)
        else:
            url = word.removeprefix("http://127.0.0.1:8000")
    return web.request(method, url, headers=headers, content=body)


def field_names(value: Any) -> Any:
    """Return the field names of a response, with the first element of each list."""
    if isinstance(value, dict):
        return {name: field_names(one) for name, one in value.items()}
    return field_names(value[0]) if isinstance(value, list) and value else None


def test_every_request_works_as_written(serve: Serve, images: Sequence[Path]) -> None:
    web = serve()
    n_sent = n_compared = 0
    for words, shown in requests(images[0].read_bytes()):
        response = send(web, words)
        assert response.is_success, (words, response.text)
        n_sent += 1
        if shown is not None:
            assert field_names(response.json()) == field_names(shown)
            n_compared += 1
    assert (n_sent, n_compared) == (GUIDE.count("\ncurl "), 3)


def test_every_route_is_in_the_table(serve: Serve) -> None:
    named = re.sub(r"\?[^`]*", "", GUIDE)
    for path, methods in serve().get("/openapi.json").json()["paths"].items():
        written = re.sub(r"\{\w+\}", "{id}", path)
        for method in methods:
            lines = [line for line in named.splitlines() if line.startswith("| `")]
            rows = [line for line in lines if f"{written}`" in line]
            assert rows, f"{written} is missing"
            assert any(method.upper() in line for line in rows), f"{method} {written} is missing"


@pytest.mark.parametrize("name", list(ServeSettings.model_fields))
def test_every_setting_is_described(name: str) -> None:
    assert f"`serve.{name}" in GUIDE


def test_limits_equal_the_defaults() -> None:
    rows = re.findall(r"^\| `(serve|retrieve)\.(\w+)` \| ([\d,]+) ", GUIDE, re.MULTILINE)
    assert len(rows) >= 8
    for section, name, shown in rows:
        default = getattr(getattr(Settings(), section), name)
        assert float(shown.replace(",", "")) == default, name
