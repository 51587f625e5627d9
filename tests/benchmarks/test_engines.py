"""The benchmark of engines: scripted ones that differ in known ways, and prompts of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from benchmarks._starting import Engine, transformers_serve
from benchmarks.engines import Questions, measure, questions, run

import online_worlds
from benchmarks import _starting
from mllm_msr.backends.mock import MockBackend, prompt_text
from mllm_msr.demo_model import weights_folder
from mllm_msr.errors import MissingExtraError, UsageError
from mllm_msr.interfaces import Backend
from mllm_msr.types import Message, Prompt, TextPart


def asking(text: str) -> Prompt:
    return Prompt((Message("user", (TextPart(text),)),))


ASKED = Questions(
    preferences=[asking(f"History {n}") for n in range(4)],
    recommend=[asking(f"Candidate {n}") for n in range(4)],
    users=["a", "b", "a", "b"],
)


def engine(name: str, odds: tuple[float, ...], answer: Callable[[Prompt], str]) -> Engine:
    def score(prompt: Prompt) -> tuple[float, float]:
        return (odds[int(prompt_text(prompt)[-1])], 0.5)

    @contextmanager
    def start() -> Iterator[Backend]:
        with closing(MockBackend(answer, scores=score)) as backend:
            yield backend

    return Engine(name, start)


def test_engines_are_told_apart_by_what_they_answer() -> None:
    odds = (0.1, 0.2, 0.3, 0.4)
    first = engine("first", odds, prompt_text)
    same = engine("same", (0.1, 0.2, 0.3, 0.4 * 1.1), prompt_text)
    # Both users' candidates keep their order where those of different users change theirs.
    across = engine("across", (0.2, 0.1, 0.3, 0.4), prompt_text)
    other = engine("other", (0.3, 0.2, 0.1, 0.4), lambda p: prompt_text(p).replace("3", "three"))
    found = measure(ASKED, [first, same, across, other], repeats=2)
    assert "equal_texts" not in found["first"]["preferences"]
    assert found["same"]["preferences"]["equal_texts"] == 1.0
    assert found["same"]["scores"]["largest_difference"] == 0.0953  # ln 1.1
    kept = {name: found[name]["scores"]["order_kept"] for name in ("same", "across", "other")}
    assert kept == {"same": True, "across": True, "other": False}
    assert found["other"]["preferences"]["equal_texts"] == 0.75
    assert found["other"]["answers"]["equal_texts"] == 0.75
    for name, result in found.items():
        for kind in ASKED.kinds:
            assert len(result[kind]["seconds"]) == 2
            assert len(result[kind]["processor_seconds"]) == 2
            assert result[kind]["per_second"] > 0
            assert ("seconds_over_first" in result[kind]) == (name != "first")


def test_a_failed_prompt_is_counted_and_is_no_equal_text() -> None:
    def fails(prompt: Prompt) -> str:
        if "2" in prompt_text(prompt):
            raise ValueError("no")
        return prompt_text(prompt)

    engines = [engine("first", (0.1,) * 4, prompt_text), engine("weak", (0.1,) * 4, fails)]
    found = measure(ASKED, engines, repeats=1)["weak"]["preferences"]
    assert (found["failed"], found["equal_texts"]) == (1, 0.75)


def test_an_engine_without_its_package_says_so() -> None:
    @contextmanager
    def start() -> Iterator[Backend]:
        raise MissingExtraError("ray", "ray")
        yield

    found = measure(
        ASKED, [engine("first", (0.1,) * 4, prompt_text), Engine("ray_2", start)], repeats=1
    )
    assert "pip install 'mllm-msr[ray]'" in found["ray_2"]["missing"]
    assert found["first"]["scores"]["failed"] == 0


def test_the_server_names_the_package_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openai" else 1)
    with pytest.raises(UsageError, match=r"'openai'.*pip install 'transformers\[serving\]'"):
        transformers_serve(1, clients=1).__enter__()


def test_vllm_reads_every_round_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def answer(prompt: Prompt) -> str:
        happened.append(prompt_text(prompt))
        return prompt_text(prompt)

    server = SimpleNamespace(
        backend=lambda *, clients: MockBackend(answer), forget=lambda: happened.append("forget")
    )
    monkeypatch.setattr(_starting, "readable", lambda checkpoint, folder: folder)
    monkeypatch.setattr(_starting, "serving", lambda *_, **__: nullcontext(server))
    with _starting.vllm(1, clients=2) as backend:
        for _ in range(2):
            assert dict(backend.generate([asking("Calm?")]))[0].text == "Calm?"
        list(backend.score([asking("Loud?")], ("yes", "no")))
    assert happened == ["forget", "Calm?"] * 2 + ["forget"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("engines"))


def test_prompts_are_those_of_the_stages(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    asked = questions(folder, 5)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [len(prompts) for prompts in asked.kinds.values()] == [5, 5, 5]
    preference_history = pl.read_parquet(folder / "preferences.parquet")
    known = preference_history.filter(~pl.col("final"))["preference"].to_list()
    # Beyond a user's first block the prompt holds what the run had inferred before.
    later = [text for text in map(prompt_text, asked.preferences) if "previous" in text]
    assert later
    assert all(any(preference in text for preference in known) for text in later)
    test = pl.read_parquet(folder / "candidates.parquet").filter(split="test")
    assert set(asked.users) <= set(test["user_id"])


def test_an_unknown_engine_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"huggingface.*received vllm"):
        run(folder=str(folder), engines="vllm")


@pytest.mark.slow
@pytest.mark.skipif(not weights_folder().is_dir(), reason="weights are not built yet")
def test_the_packaged_model_agrees_with_itself_as_a_checkpoint(folder: Path) -> None:
    found: dict[str, Any] = run(folder=str(folder), prompts=2, repeats=1, engines="huggingface")
    assert list(found["engines"]) == ["in_process", "huggingface"]
    there = found["engines"]["huggingface"]
    assert there["preferences"]["equal_texts"] == there["answers"]["equal_texts"] == 1.0
    assert there["scores"]["largest_difference"] < 1e-4
    assert there["scores"]["order_kept"]
    assert there["scores"]["tokens_read_per_second"] > there["scores"]["per_second"] > 0
