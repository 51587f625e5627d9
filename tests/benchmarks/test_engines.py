"""The benchmark `engines`: comparison of mock engines, and the prompts of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import online_worlds
from benchmarks import _engines
from benchmarks._engines import Engine, transformers_serve
from benchmarks.engines import Prompts, measure, read_prompts, run
from mllm_msr.backends.mock import MockBackend
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import MissingExtraError, UsageError
from mllm_msr.interfaces import Backend
from mllm_msr.types import Message, Prompt, TextPart


def make_prompt(text: str) -> Prompt:
    return Prompt((Message("user", (TextPart(text),)),))


PROMPTS = Prompts(
    preferences=[make_prompt(f"History {n}") for n in range(4)],
    recommend=[make_prompt(f"Candidate {n}") for n in range(4)],
    users=["a", "b", "a", "b"],
)


def engine(name: str, probabilities: tuple[float, ...], answer: Callable[[Prompt], str]) -> Engine:
    """Return an engine that scores the n-th candidate with the n-th probability of yes."""

    def score(prompt: Prompt) -> tuple[float, float]:
        return (probabilities[int(prompt.text[-1])], 0.5)

    @contextmanager
    def start() -> Iterator[Backend]:
        with closing(MockBackend(answer, scores=score)) as backend:
            yield backend

    return Engine(name, start)


def test_engines_are_compared_with_the_first_engine() -> None:
    probabilities = (0.1, 0.2, 0.3, 0.4)
    first = engine("first", probabilities, attrgetter("text"))
    same = engine("same", (0.1, 0.2, 0.3, 0.4 * 1.1), attrgetter("text"))
    # The order of candidates only changes between users.
    across = engine("across", (0.2, 0.1, 0.3, 0.4), attrgetter("text"))
    other = engine("other", (0.3, 0.2, 0.1, 0.4), lambda p: p.text.replace("3", "three"))
    found = measure(PROMPTS, [first, same, across, other], repeats=2)
    assert "equal_texts" not in found["first"]["preferences"]
    assert found["same"]["preferences"]["equal_texts"] == 1.0
    assert found["same"]["scores"]["largest_difference"] == 0.0953  # ln 1.1
    order_kept = {name: found[name]["scores"]["order_kept"] for name in ("same", "across", "other")}
    assert order_kept == {"same": True, "across": True, "other": False}
    assert found["other"]["preferences"]["equal_texts"] == 0.75
    assert found["other"]["answers"]["equal_texts"] == 0.75
    for name, result in found.items():
        for kind in PROMPTS.kinds:
            assert len(result[kind]["seconds"]) == 2
            assert len(result[kind]["processor_seconds"]) == 2
            assert result[kind]["per_second"] > 0
            assert ("seconds_over_first" in result[kind]) == (name != "first")


def test_a_failed_prompt_is_counted_and_not_an_equal_text() -> None:
    def fails(prompt: Prompt) -> str:
        if "2" in prompt.text:
            raise ValueError("no")
        return prompt.text

    engines = [engine("first", (0.1,) * 4, attrgetter("text")), engine("weak", (0.1,) * 4, fails)]
    found = measure(PROMPTS, engines, repeats=1)["weak"]["preferences"]
    assert (found["failed"], found["equal_texts"]) == (1, 0.75)


def test_the_result_contains_the_reason_why_an_engine_cannot_start() -> None:
    @contextmanager
    def start() -> Iterator[Backend]:
        raise MissingExtraError("ray", "ray")
        yield

    found = measure(
        PROMPTS,
        [engine("first", (0.1,) * 4, attrgetter("text")), Engine("ray_2", start)],
        repeats=1,
    )
    assert "part of mllm-msr[ray]. Run: pip install" in found["ray_2"]["missing"]
    assert found["first"]["scores"]["failed"] == 0


def test_transformers_serve_reports_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openai" else 1)
    with pytest.raises(UsageError, match=r"'openai'.*pip install 'transformers\[serving\]'"):
        transformers_serve(1, clients=1).__enter__()


def test_vllm_caches_are_reset_before_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def answer(prompt: Prompt) -> str:
        calls.append(prompt.text)
        return prompt.text

    server = SimpleNamespace(
        backend=lambda *, clients: MockBackend(answer), reset_caches=lambda: calls.append("reset")
    )
    monkeypatch.setattr(_engines, "convert_checkpoint", lambda checkpoint, folder: folder)
    monkeypatch.setattr(_engines, "serve", lambda *_, **__: nullcontext(server))
    with _engines.vllm(1, clients=2) as backend:
        for _ in range(2):
            assert dict(backend.generate([make_prompt("Calm?")]))[0].text == "Calm?"
        list(backend.score([make_prompt("Loud?")], ("yes", "no")))
    assert calls == ["reset", "Calm?"] * 2 + ["reset"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("engines"))


def test_prompts_equal_those_of_the_stages(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    prompts = read_prompts(folder, 5)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [len(kind_prompts) for kind_prompts in prompts.kinds.values()] == [5, 5, 5]
    preferences = pl.read_parquet(folder / "preferences.parquet")
    known = preferences.filter(~pl.col("final"))["preference"].to_list()
    # After the first block of a user, the prompt contains the previous preference of the run.
    later = [text for text in map(attrgetter("text"), prompts.preferences) if "previous" in text]
    assert later
    assert all(any(preference in text for preference in known) for text in later)
    test = pl.read_parquet(folder / "candidates.parquet").filter(split="test")
    assert set(prompts.users) <= set(test["user_id"])


def test_an_unknown_engine_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown engines: vllm\. Available: .*huggingface"):
        run(folder=str(folder), engines="vllm")


@pytest.mark.slow
@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights are not built yet")
def test_the_backends_demo_and_huggingface_agree_on_the_packaged_model(folder: Path) -> None:
    found: dict[str, Any] = run(folder=str(folder), prompts=2, repeats=1, engines="huggingface")
    assert list(found["engines"]) == ["in_process", "huggingface"]
    other = found["engines"]["huggingface"]
    assert other["preferences"]["equal_texts"] == other["answers"]["equal_texts"] == 1.0
    assert other["scores"]["largest_difference"] < 1e-4
    assert other["scores"]["order_kept"]
    assert other["scores"]["tokens_read_per_second"] > other["scores"]["per_second"] > 0
