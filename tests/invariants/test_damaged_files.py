"""Damage to any file of a finished run is rejected or repaired, and never changes a result.

Only an image is optional: without it, the model reads the title of its item, and this is said.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import mock_runs
from mllm_msr.cli import app
from mllm_msr.config.run_settings import load_run_settings
from mllm_msr.errors import DamagedFileError, MllmMsrError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend import fit_lists
from mllm_msr.recommend.fit_lists import FitOptions
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.server import make_app
from mllm_msr.storage import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The budget has all items: the model knows nothing, so the fitted number of calls is 0.
SETTINGS = ["score.baselines=[popularity, item_knn]", "retrieve.budget=16", "serve.warm_items=0"]
LISTS = "lists/0.json"
OPTIONS = FitOptions(budget=10)
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
    """Return recommendations to a user, with scores, and how many were made without an image."""
    with MllmMsr.from_run(folder) as model:
        found = model.recommend(USER, 5)
        scores = {item.item_id: item.score for item in found.items}
        return list(scores.items()), found.without_image, found.preference


def serve(folder: Path) -> Any:
    """Return what `recommend` returns, from the service."""
    with TestClient(make_app(folder, environment={}), base_url="http://localhost") as client:
        answer = client.post("/v1/recommendations", json={"user_id": USER, "k": 5}).json()
    scores = {item["item_id"]: item["score"] for item in answer["items"]}
    return list(scores.items()), answer["without_image"], answer["preference"]


def fit(folder: Path, *, force: bool = True) -> Any:
    """Fit the weights of lists again, and return them."""
    settings = load_run_settings(folder, environment={})
    with Pipeline.open(folder, settings, force=force) as pipeline:
        return fit_lists.fit_lists(pipeline.context, pipeline.settings, OPTIONS, folds=[0])


COMMANDS: Mapping[str, Callable[[Path], Any]] = {
    "run": run,
    "recommend": recommend,
    "serve": serve,
    "fit-lists": fit,
}


@pytest.fixture(scope="module")
def mocked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        mock_runs.install(patch)
        # The small dataset has few validation users.
        patch.setattr(fit_lists, "_MIN_USERS", 2)
        yield


@pytest.fixture(scope="module")
def finished(mocked: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run with an adapter, baselines, weights of lists and all caches.

    Tests must not change it.
    """
    data = mock_runs.world(tmp_path_factory.mktemp("damage") / "data")
    folder = data.with_name("run")
    with Pipeline.open(folder, mock_runs.load(data, "train.enabled=true", *SETTINGS)) as pipeline:
        pipeline.run_all()
    fit(folder)  # before the service, which reads the weights
    for command in COMMANDS.values():
        command(folder)
    shutil.rmtree(folder / "service")
    return folder


@pytest.fixture(scope="module")
def expected(finished: Path) -> dict[str, Any]:
    """Return the results of the commands on the undamaged run."""
    results = {name: command(finished) for name, command in COMMANDS.items()}
    shutil.rmtree(finished / "service")
    for name in ("recommend", "serve"):
        scores, without_image, _ = results[name]
        assert all(score is not None for _, score in scores)
        assert without_image == 0
    with MllmMsr.from_run(finished) as model:
        assert model.plan.order == "fitted"
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


def is_without_image(command: str, result: Any, expected: Any, log: str) -> bool:
    """Return whether a result says that an image is missing, and differs only by its item."""
    if command == "fit-lists":
        return "1 items are scored without images that cannot be opened" in log
    if command == "run":
        return False
    scores, without_image, preference = result
    known = dict(expected[0])
    changed = [one for one, score in scores if known.get(one, score) != score]
    return without_image == 1 and len(changed) <= 1 and preference == expected[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_damage_is_rejected_or_repaired(
    finished: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    command: str,
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
        caplog.clear()
        try:
            result = COMMANDS[command](folder)
        except MllmMsrError as error:
            message = str(error)
            rejected.add(artifact.as_posix())
        else:
            assert result == expected[command] or (
                artifact.parts[0] == "images"
                and is_without_image(command, result, expected[command], caplog.text)
            ), case
            message = artifact.name
        named = [*artifact.parts, "Run the stage"]
        assert any(name in message for name in named), f"{case}: {message}"
        shutil.rmtree(folder)
    # What a command reads and cannot rebuild is rejected.
    assert "config.yaml" in rejected
    if command != "run":
        assert {"manifest.json", "folds/0/adapter/weights", "summaries.parquet"} <= rejected
    # Only `fit-lists` fits them again.
    assert (LISTS in rejected) == (command != "fit-lists")


def test_run_rebuilds_what_it_can(
    finished: Path, expected: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    outputs = [
        output
        for entry in manifest.load(folder).values()
        for output in entry["outputs"]
        if output not in {"folds/0/adapter", LISTS}
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


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_of_lists_are_rejected_until_they_are_fitted_again(
    finished: Path, expected: dict[str, Any], tmp_path: Path, damage: Callable[[Path, bytes], None]
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    content = (folder / LISTS).read_text()
    damage(folder / LISTS, content.replace('"budget": 0', '"budget": 1').encode())
    planned = CliRunner().invoke(app, ["plan", "--run", str(folder)])
    assert isinstance(planned.exception, DamagedFileError)
    for command in (recommend, serve):
        with pytest.raises(DamagedFileError, match=r"lists/0\.json .* 'mllm-msr fit-lists --run "):
            command(folder)
    with MllmMsr.from_run(folder, overrides=["retrieve.order=fusion"]) as model:
        assert model.recommend(USER, 5).model_calls > 0
    assert fit(folder, force=False) == expected["fit-lists"]
    assert (folder / LISTS).read_text() == content
    assert recommend(folder) == expected["recommend"]
    assert serve(folder) == expected["serve"]
