"""Tests of the base class of local backends: a process loads one model at a time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from mllm_msr.backends._local import LocalBackend
from mllm_msr.inference.engine import engine
from mllm_msr.models import loading


def test_models_are_not_loaded_concurrently(monkeypatch: pytest.MonkeyPatch) -> None:
    loading_now: list[str] = []
    n_loading: list[int] = []

    def load(checkpoint: str, **_: object) -> str:
        loading_now.append(checkpoint)
        time.sleep(0.05)
        n_loading.append(len(loading_now))
        loading_now.remove(checkpoint)
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
    assert n_loading == [1, 1, 1]
    assert [model.score([], ()) for model in models] == [[(0, "one")], [(0, "two")], [(0, "three")]]
