"""The guide to the service is true: its requests work as written, its tables are complete."""

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

from mllm_msr.config.settings import Settings

Serve = Callable[..., TestClient]

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
GUIDE = PAGE.read_text(encoding="utf-8")


def requests(image: bytes) -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """The words of every `curl` in the guide, and the answer that is shown below it."""
    # The demo's ids are made those of this world.
    text = re.sub(r"\bv000(\d)\b", r"item\1", re.sub(r"\bu000(\d)\b", r"user\1", GUIDE))
    text = re.sub(r"\$\(base64[^)]*\)", base64.b64encode(image).decode(), text)
    blocks = re.findall(r"```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?", text, re.DOTALL)
    for block, answer in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["curl"]:
                yield words[1:], json.loads(answer) if answer else None


def sent(web: TestClient, words: Sequence[str]) -> Any:
    """What curl would get."""
    places = iter(words)
    method, headers, body, url = "GET", {}, None, ""
    for word in places:
        if word == "-X":
            method = next(places)
        elif word == "-H":
            name, _, value = next(places).partition(": ")
            headers[name] = value
        elif word == "-d":
            method, body = "POST", next(places)
        else:
            url = word.removeprefix("http://127.0.0.1:8000")
    return web.request(method, url, headers=headers, content=body)


def names(value: Any) -> Any:
    """The names in an answer, and in the first place of each of its lists."""
    if isinstance(value, dict):
        return {name: names(one) for name, one in value.items()}
    return names(value[0]) if isinstance(value, list) and value else None


def test_every_request_works_as_it_is_written(serve: Serve, images: Sequence[Path]) -> None:
    web = serve()
    sent_so_far = compared = 0
    for words, shown in requests(images[0].read_bytes()):
        answer = sent(web, words)
        assert answer.is_success, (words, answer.text)
        sent_so_far += 1
        if shown is not None:
            assert names(answer.json()) == names(shown)
            compared += 1
    assert (sent_so_far, compared) == (GUIDE.count("\ncurl "), 2)


def test_every_route_is_in_the_table(serve: Serve) -> None:
    named = re.sub(r"\?[^`]*", "", GUIDE)
    for path, methods in serve().get("/openapi.json").json()["paths"].items():
        written = re.sub(r"\{\w+\}", "{id}", path)
        for method in methods:
            lines = [line for line in named.splitlines() if line.startswith("| `")]
            told = [line for line in lines if f"{written}`" in line]
            assert told, f"{written} is missing"
            assert any(method.upper() in line for line in told), f"{method} {written} is missing"


@pytest.mark.parametrize("name", list(Settings().serve.model_dump()))
def test_every_setting_is_explained(name: str) -> None:
    assert f"`serve.{name}" in GUIDE


def test_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(serve|retrieve)\.(\w+)` \| ([\d,]+) ", GUIDE, re.MULTILINE)
    assert len(rows) >= 8
    for section, name, shown in rows:
        default = getattr(getattr(Settings(), section), name)
        assert float(shown.replace(",", "")) == default, name
