"""Tests with generated valid and invalid requests against `/openapi.json`."""

from __future__ import annotations

import base64
import io
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from PIL import Image

import online_worlds
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.serving.server import make_app

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")


def register_images() -> None:
    """Generate images for fields in base64: a schema cannot say what an image is."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    image = base64.b64encode(content.getvalue()).decode()
    schemathesis.openapi.format("base64", hypothesis.strategies.just(image))


register_images()


@pytest.fixture(scope="module")
def schema(run: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open_ranker", "open_preference_model"):
            patch.setattr(RunModels, name, lambda self, **_: online_worlds.FakeBackend())
        state = tmp_path_factory.mktemp("openapi") / "state.sqlite"
        app = make_app(run, overrides=[f"serve.state=sqlite:///{state}"], environment={})
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_responses_conform_to_the_schema(schema, mode: str) -> None:
    n_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode == "negative" and not (operation.body or operation.path_parameters):
            continue
        cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @hypothesis.given(case=cases)
        @hypothesis.settings(
            max_examples=8,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case) -> None:
            case.call_and_validate()

        check()
        n_operations += 1
    assert n_operations >= 6
