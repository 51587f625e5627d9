"""Backends from settings: optional arguments, fine-tuned weights, the response cache."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mllm_msr.backends.demo import DemoBackend
from mllm_msr.config.settings import ExecutorSettings, ModelSettings
from mllm_msr.errors import CapabilityError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.pipeline.backends import backend_arguments, open_backend, open_cached
from mllm_msr.storage.response_cache import ResponseCache


def test_optional_arguments_reach_only_backends_that_take_them() -> None:
    optional = {"prefix_cache_bytes": 10**6, "threads": 1}
    model = ModelSettings(backend="demo")
    with (
        contextlib.closing(open_backend(model, optional=optional)) as backend,
        contextlib.closing(open_backend(model)) as plain,
    ):
        assert isinstance(backend, DemoBackend)
        assert backend.fingerprint == plain.fingerprint
    open_backend(ModelSettings(backend="mock"), optional=optional).close()


def test_settings_take_precedence_over_optional_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}
    monkeypatch.setattr(DemoBackend, "__init__", lambda self, *, threads=0: given.update(t=threads))
    model = ModelSettings.model_validate({"backend": "demo", "threads": 2})
    open_backend(model, optional={"threads": 1})
    assert given == {"t": 2}


def test_fine_tuned_weights_become_constructor_arguments() -> None:
    demo = ModelSettings(backend="demo")
    assert backend_arguments(demo) == {}
    assert backend_arguments(demo, Path("adapter")) == {"adapter": Path("adapter")}
    full = backend_arguments(demo, Path("model"), "full")
    assert str(full["weights"]) == "model"
    mock = ModelSettings(backend="mock")
    with pytest.raises(CapabilityError, match="MockBackend cannot load the fine-tuned weights"):
        backend_arguments(mock, Path("adapter"))


def test_cached_backends_use_the_runs_response_cache(tmp_path: Path) -> None:
    with contextlib.closing(ResponseCache(tmp_path / "responses.sqlite")) as cache:
        model = ModelSettings(backend="mock")
        with contextlib.closing(open_cached(model, cache, ExecutorSettings())) as backend:
            assert isinstance(backend, CachedBackend)
            assert backend.usage()["misses"] == 0
