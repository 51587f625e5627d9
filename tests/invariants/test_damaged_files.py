"""Damage to any file of a finished run is rejected or repaired, and never changes a result."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import mock_runs
from mllm_msr.config.run_settings import load_run_settings
from mllm_msr.errors import MllmMsrError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.server import make_app
from mllm_msr.storage import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = ["score.baselines=[popularity, item_knn]", "retrieve.order=model", "serve.warm_items=0"]
USER = "user1"


def flip(path: Path, other: bytes) -> None:
    """Flip one bit in the middle of the file."""
    del other
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path, other: bytes) -> None:
    """Remove the second half of the file."""
    del other
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path, other: bytes) -> None:
    """Leave the file without content."""
    del other
    path.write_bytes(b"")


def remove(path: Path, other: bytes) -> None:
    """Remove the file."""
    del other
    path.unlink()


def replace(path: Path, other: bytes) -> None:
    """Replace the content by that of a valid file of the same kind."""
    path.write_bytes(other)


DAMAGES = (flip, truncate, empty, remove, replace)


def run(folder: Path) -> Any:
    """Run all stages, and return the content of every output."""
    with Pipeline.open(folder, load_run_settings(folder, environment={})) as pipeline:
        pipeline.run_all()
        outputs = {
            name: entry["outputs"]
            for name, entry in pipeline.run.stages.items()
            if name != "report"  # it shows how long each stage took
        }
        for output in itertools.chain(
            *(entry["outputs"] for entry in pipeline.run.stages.values())
        ):
            pipeline.run.verified(output)
    return outputs


def recommend(folder: Path) -> Any:
    """Return recommendations to a user, with scores."""
    with MllmMsr.from_run(folder) as model:
        found = model.recommend(USER, 5)
        return found.preference, [(item.item_id, item.score) for item in found.items]


def serve(folder: Path) -> Any:
    """Return the answer of the service to a request for recommendations."""
    with TestClient(make_app(folder, environment={}), base_url="http://localhost") as client:
        answer = client.post("/v1/recommendations", json={"user_id": USER, "k": 5}).json()
    return [(item["item_id"], item["score"]) for item in answer["items"]]


COMMANDS: Mapping[str, Callable[[Path], Any]] = {
    "run": run,
    "recommend": recommend,
    "serve": serve,
}


@pytest.fixture(scope="module")
def mocked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        mock_runs.install(patch)
        yield


@pytest.fixture(scope="module")
def finished(mocked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with an adapter, baselines and all caches. Tests must not change it."""
    data = mock_runs.world(tmp_path_factory.mktemp("damage") / "data")
    folder = data.with_name("run")
    with Pipeline.open(folder, mock_runs.load(data, "train.enabled=true", *SETTINGS)) as pipeline:
        pipeline.run_all()
    for command in COMMANDS.values():
        command(folder)
    shutil.rmtree(folder / "service")
    return folder


@pytest.fixture(scope="module")
def expected(finished: Path) -> dict[str, Any]:
    """Return the results of the commands on the undamaged run."""
    results = {name: command(finished) for name, command in COMMANDS.items()}
    shutil.rmtree(finished / "service")
    assert all(score is not None for _, score in results["recommend"][1])
    assert all(score is not None for _, score in results["serve"])
    return results


def artifacts(folder: Path) -> list[Path]:
    """Return the files of a run relative to its folder, without those of further folds."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    images = [file for file in files if file.parts[0] == "images"]
    return [
        file
        for file in files
        if not file.name.startswith(".")
        and "folds/1" not in file.as_posix()
        and "-1" not in file.as_posix().partition("cache/fitted/")[2]
        and file not in images[2:]
    ]


def other_content(folder: Path, artifact: Path) -> bytes:
    """Return the content of another file of the same kind, or the file's own, reversed."""
    same = [
        path
        for path in sorted(folder.rglob(f"*{artifact.suffix}"))
        if path.is_file() and path.read_bytes() != (folder / artifact).read_bytes()
    ]
    siblings = [path for path in same if path.parent == (folder / artifact).parent]
    chosen = next(iter([*siblings, *same]), None)
    return chosen.read_bytes() if chosen else (folder / artifact).read_bytes()[::-1]


@pytest.mark.parametrize("command", COMMANDS)
def test_damage_is_rejected_or_repaired(
    finished: Path, expected: dict[str, Any], tmp_path: Path, command: str
) -> None:
    """Damage each file in another way for each command; each command meets all kinds."""
    before = artifacts(finished)
    assert len(before) > 35
    rejected: set[str] = set()
    for number, artifact in enumerate(before):
        damage = DAMAGES[(number + len(command)) % len(DAMAGES)]
        case = f"{damage.__name__} {artifact}"
        folder = Path(shutil.copytree(finished, tmp_path / "run"))
        damage(folder / artifact, other_content(finished, artifact))
        try:
            result = COMMANDS[command](folder)
        except MllmMsrError as error:
            message = str(error)
            rejected.add(artifact.as_posix())
        else:
            assert result == expected[command], case
            message = artifact.name
        named = [*artifact.parts, "Run the stage"]
        assert any(name in message for name in named), f"{case}: {message}"
        shutil.rmtree(folder)
    # What a command reads and cannot rebuild is rejected.
    assert "config.yaml" in rejected
    if command != "run":
        assert {"manifest.json", "folds/0/adapter/weights", "summaries.parquet"} <= rejected


def test_run_rebuilds_what_it_can(
    finished: Path, expected: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    outputs = [
        output
        for entry in manifest.load(folder).values()
        for output in entry["outputs"]
        if output != "folds/0/adapter"
    ]
    for output in outputs:
        path = folder / output
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.write_bytes(b"")
    assert run(folder) == expected["run"]
    for stage in ("prepare", "summarize", "infer", "train/1", "score/item_knn", "evaluate"):
        assert f"redoing the finished stage '{stage}'" in caplog.text


def test_a_damaged_adapter_is_rejected_with_the_fix(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    flip(folder / "folds/0/adapter/weights", b"")
    for command in (recommend, serve):
        with pytest.raises(MllmMsrError, match=r"adapter has 6 bytes .* 'mllm-msr train --run "):
            command(folder)
    assert json.loads((folder / "manifest.json").read_text())["stages"]["train/0"]
