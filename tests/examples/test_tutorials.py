"""The commands of the tutorials, executed one after another on a small shop with small models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from endpoints import HttpRequest, HttpResponse, completion_response, logprobs_response, serve
from mllm_msr.cli import app
from mllm_msr.pipeline import doctor
from test_readme import ROOT, commands

TUTORIALS = ROOT / "docs" / "tutorials"

# Settings that shorten every run.
SMALL = ("data.negatives=[uniform]", "data.n_negatives=5", "evaluate.n_resamples=50")

Follow = Callable[..., list[str]]


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    """Return a function that runs the commands of a tutorial in a folder with a small shop."""
    import runpy

    write_shop = runpy.run_path(str(ROOT / "examples" / "write_shop.py"))["write_shop"]
    monkeypatch.chdir(tmp_path)
    # It imports every package in a process of its own; tests/pipeline/test_doctor.py tests it.
    monkeypatch.setattr(doctor, "_import_error", lambda name: "")

    def run(page: str, replaced: Mapping[str, str], added: Sequence[str] = ()) -> list[str]:
        write_shop(tmp_path / "shop", n_users=30, n_books=40)
        outputs = []
        for words in commands(TUTORIALS / page):
            if words[0] == "serve" or "--serve" in words:
                continue
            used = [new for word in words for new in replaced.get(word, word).split()]
            if words[0] in {"plan", "run"}:
                used += [*SMALL, *added]
            result = CliRunner().invoke(app, used)
            assert result.exit_code == 0, (used, result.output, result.exception)
            outputs.append(result.output)
        return outputs

    return run


def test_demo(follow: Follow, demo_run: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_run, tmp_path / "runs/demo")
    status, recommended = follow("demo.md", {})
    assert "report" in status
    assert "The user appears to have a preference for" in recommended


def test_laptop(follow: Follow, tmp_path: Path) -> None:
    replaced = {"model.preset=smollm2-135m": "model.backend=demo", "train.max_targets=200": ""}
    replaced["model.backend=smollm"] = "model.backend=demo"  # doctor
    # What the preset leaves out.
    short = ["recommend.reads=history", "summarize.enabled=false", "infer.enabled=false"]
    *_, recommended = follow("laptop.md", replaced, ["train.max_targets=4", *short])
    assert "The " in recommended
    assert (tmp_path / "runs/shop/report.html").is_file()
    metrics = json.loads((tmp_path / "runs/shop/metrics.json").read_text())
    assert set(metrics) == {"mllm_msr", "zero_shot", "popularity", "item_knn", "gru4rec_f"}


def test_gpu(follow: Follow, tmp_path: Path) -> None:
    replaced = {"model.preset=qwen3-vl-2b": "model.backend=demo", "USER_ID": "reader00"}
    replaced["plan.pilot=16"] = "plan.pilot=2"
    few = ["infer.max_items=3", "train.max_steps=1", "train.batch_size=2"]
    *_, recommended = follow("gpu.md", replaced, few)
    assert "The user appears to have a preference for" in recommended
    metrics = json.loads((tmp_path / "runs/shop/metrics.json").read_text())
    assert set(metrics) == {"mllm_msr", "zero_shot", "popularity", "item_knn", "sasrec"}


def test_endpoint(follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def answer(request: HttpRequest) -> HttpResponse:
        if request.path == "/v1/models":
            return HttpResponse({"data": [{"id": "Qwen/Qwen3-VL-2B-Instruct"}]})
        if request.path != "/v1/chat/completions":
            return HttpResponse(status=404)
        if request.body.get("logprobs"):
            return logprobs_response({"yes": -0.4, "no": -1.2})
        return completion_response("The user appears to have a preference for harbors at night.")

    with serve(answer) as server:
        replaced = {
            "model.url=http://127.0.0.1:8000/v1": f"model.url={server.url}",
            "plan.pilot=16": "plan.pilot=2 model.concurrency=4",  # a server with a short queue
            "USER_ID": "reader00",
        }
        *_, recommended = follow("endpoint.md", replaced)
    assert "harbors at night" in recommended
    metrics = json.loads((tmp_path / "runs/shop-server/metrics.json").read_text())
    assert set(metrics) == {"zero_shot", "popularity"}
    # The server answers every question in the same way: chance, because ties count half.
    assert metrics["zero_shot"]["uniform"]["auc"]["mean"] == 0.5


def test_every_tutorial_is_followed() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for page in TUTORIALS.glob("*.md"):
        assert not commands(page) or f'follow("{page.name}"' in source
