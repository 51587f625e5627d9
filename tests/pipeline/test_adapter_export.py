"""Tests for exported adapters of a real small training, and for a hub on loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import polars as pl
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from peft import PeftConfig

from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings
from mllm_msr.errors import DamagedFileError, DataError, UsageError
from mllm_msr.pipeline.adapter_export import (
    AdapterExport,
    export_adapter,
    load_adapter,
    push_adapter,
    shared_settings,
)
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.collaborative import CollaborativeVectors
from mllm_msr.storage.run_folder import RunFolder

# Without generated texts, which take most of the time.
SMALL = {
    "preset": "demo",
    "summarize.enabled": False,
    "infer.enabled": False,
    "recommend.reads": "history",
    "data.n_users": 12,
    "data.n_items": 30,
    "train.batch_size": 4,
    "train.epochs": 1,
    "data.negatives": ["uniform"],
    "data.n_negatives": 4,
    "score.baselines": ["popularity"],
    "evaluate.n_resamples": 20,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an evaluated run with an adapter after two steps."""
    folder = tmp_path_factory.mktemp("export") / "run"
    with Pipeline.open(folder, {**SMALL, "train.max_steps": 2}) as pipeline:
        for stage in ("prepare", "train", "score", "evaluate"):
            pipeline.run_stage(stage)
    return folder


@pytest.fixture(scope="module")
def export(run: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterExport:
    return export_adapter(run, tmp_path_factory.mktemp("export") / "adapter")


def test_folder_is_an_adapter_of_peft_without_paths(export: AdapterExport, run: Path) -> None:
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "settings.yaml",
        "README.md",
    } <= set(export.files)
    config = PeftConfig.from_pretrained(export.folder)
    assert (config.r, config.base_model_name_or_path) == (16, None)
    source = run / "adapter" / "adapter_model.safetensors"
    assert (export.folder / source.name).read_bytes() == source.read_bytes()
    for name in export.files:
        content = (export.folder / name).read_bytes()
        for path in (run.parent, Path(__file__).parents[2], Path.home()):
            assert str(path).encode() not in content, name


def test_card_has_the_results_and_their_limits(export: AdapterExport, run: Path) -> None:
    card = ModelCard.load(export.folder / "README.md")
    assert card.data.to_dict()["library_name"] == "peft"
    assert "base_model" not in card.data.to_dict()
    metrics = json.loads((run / "metrics.json").read_text())
    auc = metrics["mllm_msr"]["uniform"]["auc"]
    assert f"{auc['mean']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})" in card.text
    for words in (
        *("| users | 12 |", "rank 16", "## Prompt", "TITLE OF THE LATEST ITEM", '"TITLE"'),
        *("[image]", "so intervals are wide", "names no license"),
    ):
        assert words in card.text, words
    assert "\n\n\n\n" not in card.text


def test_vectors_of_a_student_have_no_titles(tmp_path: Path) -> None:
    changes = {
        "train.max_steps": 1,
        "train.targets_per_user": 1,
        "recommend.collaborative": "student",
        "recommend.collaborative_min_interactions": 1,
        "baselines.student.epochs": 1,
        "baselines.student.hidden": 8,
        "baselines.student.image_encoder": "none",
    }
    with Pipeline.open(tmp_path / "run", {**SMALL, **changes}) as pipeline:
        for stage in ("prepare", "train"):
            pipeline.run_stage(stage)
        titles = pipeline.tables.items()["title"].to_list()
    export = export_adapter(tmp_path / "run", tmp_path / "adapter")
    corpus = "collaborative/corpus.parquet"
    assert titles[0] in pl.read_parquet(tmp_path / "run/adapter" / corpus)["text"].str.join()[0]
    assert pl.read_parquet(export.folder / corpus).is_empty()
    for name in export.files:
        content = (export.folder / name).read_bytes()
        assert not [title for title in titles if title.encode() in content], name
    found, expected = (
        CollaborativeVectors.load(path).state(["v0001"])
        for path in (export.folder, tmp_path / "run/adapter")
    )
    assert found == expected


def test_another_run_scores_with_the_adapter(
    export: AdapterExport, run: Path, tmp_path: Path
) -> None:
    settings = {**SMALL, **load_adapter(export.folder)}
    with Pipeline.open(tmp_path / "new", settings) as pipeline:
        for stage in ("prepare", "score"):
            pipeline.run_stage(stage)
    with (
        RunFolder.open(run, read_only=True) as old,
        RunFolder.open(tmp_path / "new", read_only=True) as new,
    ):
        # The recommender without further fine-tuning is the exported one.
        assert new.read("scores/zero_shot").equals(old.read("scores/mllm_msr"))


def test_command_of_the_card_has_valid_settings(export: AdapterExport) -> None:
    overrides = ["dataset=files", "data.path=shop", f"model.adapter={export.folder}"]
    settings = load_settings(None, overrides, file=export.folder / "settings.yaml", environment={})
    assert settings.train.enabled is False
    assert settings.infer.model is not None
    assert "adapter" not in settings.infer.model.plugin_kwargs()


def test_folder_with_files_is_not_overwritten(run: Path, export: AdapterExport) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        export_adapter(run, export.folder)


def test_run_without_adapter_is_rejected(tmp_path: Path) -> None:
    with Pipeline.open(tmp_path, {**SMALL, "train.enabled": False}) as pipeline:
        pipeline.run_stage("prepare")
    with pytest.raises(UsageError, match=r"no LoRA adapter, because train\.enabled is false"):
        export_adapter(tmp_path, tmp_path / "adapter")


def settings_of(**values: Any) -> Settings:
    return load_settings(
        "default", {"dataset": "files", "data.path": "x", **values}, environment={}
    )


def test_shared_settings_have_no_paths_and_addresses(tmp_path: Path) -> None:
    settings = settings_of(
        **{
            "model.backend": "huggingface",
            "model.checkpoint": "owner/model",
            "model.image_side": 336,
            "infer.model.backend": "openai",
            "infer.model.url": "http://internal:8000/v1",
            "infer.model.checkpoint": "writer",
            "infer.words": 50,
            "recommend.reads": "both",
        }
    )
    found = shared_settings(settings, "product")
    assert found["model"] == {
        "backend": "huggingface", "checkpoint": "owner/model", "image_side": 336
    }  # fmt: skip
    assert found["infer"] == {"words": 50, "model": {"backend": "openai", "checkpoint": "writer"}}
    assert found["summarize"] == {"model": found["model"]}
    assert found["recommend"] == {"reads": "both"}
    local = settings_of(**{"model.backend": "huggingface", "model.checkpoint": str(tmp_path)})
    assert shared_settings(local, "item")["model"] == {"backend": "huggingface"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"serve": {"state": "x"}}, "other sections"),
        ({"model": {"url": "http://evil"}}, "sets 'url' in model"),
        ({"infer": {"model": {"key_variable": "SECRET"}}}, "sets 'key_variable' in infer"),
        ({"prompts": {"folder": "/etc"}}, "sets 'folder' in prompts"),
        ({"images": {"allowed_hosts": ["evil"]}}, "sets 'allowed_hosts' in images"),
        ({"train": {"loggers": ["wandb"]}}, "sets 'loggers' in train"),
        ([], "other sections"),
    ],
)
def test_settings_of_others_select_no_files_or_addresses(
    tmp_path: Path, settings: Any, words: str
) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).touch()
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(DamagedFileError, match=words):
        load_adapter(tmp_path)


def test_other_folder_is_not_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(DamagedFileError, match=r"adapter_model\.safetensors, .* is missing"):
        load_adapter(tmp_path)


class Hub(ThreadingHTTPServer):
    """Hub with one repository, in the protocol of `huggingface_hub`.

    Attributes:
        files: Contents of the repository by name.
        seen: Path and token of every request.
        created: Bodies of requests that create repositories.
        status: Status of the response to a commit.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.seen: list[tuple[str, str]] = []
        self.created: list[dict[str, Any]] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization", "")))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": f"{self.server.url}/owner/name"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/owner/name/preupload/main":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/api/models/owner/name/commit/main" and self.server.status == 200:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            oid = "1" * 40
            url = f"{self.server.url}/owner/name/commit/{oid}"
            self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
        else:
            self.answer({"error": "quota exceeded"}, status=self.server.status)

    def do_GET(self) -> None:
        prefix = f"/owner/name/resolve/{'1' * 40}/"
        if self.path.startswith("/api/models/owner/name/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.server.files.items()
            ]
            self.answer(tree)
        elif self.path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer({"id": "owner/name", "sha": "1" * 40, "siblings": siblings})
        elif self.path.startswith(prefix):
            content = self.server.files[self.path.removeprefix(prefix)]
            digest = hashlib.sha1(content).hexdigest()
            self.answer(content, headers={"ETag": f'"{digest}"', "X-Repo-Commit": "1" * 40})
        else:
            self.answer({"error": "none"}, 404, headers={"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_pushed_adapter_is_loaded_from_the_hub(hub: Hub, export: AdapterExport) -> None:
    url = push_adapter(export.folder, "owner/name")
    assert url == f"{hub.url}/owner/name/commit/{'1' * 40}"
    created = hub.created[0]
    assert created.get("visibility") == "private" or created.get("private")
    assert {token for _, token in hub.seen} == {"Bearer hf_secret"}
    assert set(hub.files) == set(export.files)
    found, local = load_adapter("owner/name"), load_adapter(export.folder)
    folder = Path(found.pop("model.adapter"))
    assert folder != Path(local.pop("model.adapter"))
    assert found == local
    for name in export.files:
        assert (folder / name).read_bytes() == (export.folder / name).read_bytes()


def test_failures_of_the_hub_are_explained(
    hub: Hub, export: AdapterExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"neither a folder nor a repository .*'owner/absent'"):
        load_adapter("owner/absent")
    hub.status = 403
    with pytest.raises(DataError, match=r"did not accept owner/name: .*quota exceeded"):
        push_adapter(export.folder, "owner/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        push_adapter(export.folder, "owner/name")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match=r"no token for the hub\. Set HF_TOKEN"):
        push_adapter(export.folder, "owner/name")
