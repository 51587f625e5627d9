"""Loading without a connection to the hub."""

from __future__ import annotations

import time

import pytest

from mllm_msr.errors import BackendError
from mllm_msr.models import hub
from mllm_msr.models.loading import load_processor


def test_a_checkpoint_of_an_unreachable_hub_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(hub.socket, "create_connection", refuse)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    hub._connects.cache_clear()
    start = time.monotonic()
    with pytest.raises(BackendError, match="cannot load the checkpoint 'nobody/nothing'"):
        load_processor("nobody/nothing")
    assert time.monotonic() - start < 5
    hub._connects.cache_clear()
