"""Models of one process are loaded one after another, whoever asks for them first."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from mllm_msr.backends._local import LocalBackend
from mllm_msr.inference.engine import engine
from mllm_msr.models import loading


def test_two_models_are_never_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work: list[str] = []
    most: list[int] = []

    def load(checkpoint: str, **_: object) -> str:
        at_work.append(checkpoint)
        time.sleep(0.05)
        most.append(len(at_work))
        at_work.remove(checkpoint)
        return checkpoint

    monkeypatch.setattr(loading, "load_model", load)
    monkeypatch.setattr(
        engine, "Engine", lambda loaded, **_: SimpleNamespace(score=lambda *_: [(0, loaded)])
    )
    models = [
        LocalBackend(
            "huggingface", name, revision=None, dtype="float32", device="cpu", adapter=None,
            attention="auto", batch_size=1, max_batch_tokens=1, prefix_cache_bytes=0,
            speculative_tokens=0, threads=None,
        )
        for name in ("one", "two", "three")
    ]  # fmt: skip
    threads = [threading.Thread(target=model.score, args=([], ())) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert [model.score([], ()) for model in models] == [[(0, "one")], [(0, "two")], [(0, "three")]]
