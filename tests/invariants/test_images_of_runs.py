"""Images belong to the run: it can be moved and copied, and damaged images are never used."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

import mock_runs
from mllm_msr.backends import mock
from mllm_msr.data.images import open_image
from mllm_msr.errors import RunFolderError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.storage import transfer
from mllm_msr.types import Prompt

BUDGET = 30


def score(prompt: Prompt, n_choices: int) -> tuple[float, float]:
    """Return probabilities that depend on the text and on every pixel of the image."""
    pixels = b"".join(open_image(path).tobytes() for path in prompt.images)
    value = zlib.crc32(prompt.text.encode() + pixels) % 997 / 1000
    return (value + 0.001, 0.999 - value)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all models be mocks; the ranker reads the pixels of the images."""
    mock_runs.install(monkeypatch)
    backend = mock.MockBackend()
    # `mock_runs` replaces the scripted scores of the class.
    monkeypatch.setattr(backend, "_probabilities", score)
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: backend)
    monkeypatch.setattr(backend, "close", lambda: None)


def make_run(folder: Path, data: Path) -> Path:
    with Pipeline.open(folder, mock_runs.load(data)) as pipeline:
        pipeline.run_until("infer")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the data of a run and the run, which tests copy."""
    folder = tmp_path_factory.mktemp("images")
    data = mock_runs.world(folder / "data")
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        return data, make_run(folder / "run", data)


def scores(folder: Path) -> dict[str, float | None]:
    with MllmMsr.from_run(folder) as model:
        found = model.recommend("user3", BUDGET, budget=BUDGET, exclude_seen=False)
        assert found.model_calls == len(found.items)
        return {item.item_id: item.score for item in found.items}


def test_a_run_gives_the_same_scores_elsewhere_and_without_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    data = mock_runs.world(tmp_path / "data")
    run = make_run(tmp_path / "run", data)
    expected = scores(run)
    address = (tmp_path / "storage" / "run").as_uri()
    transfer.push_folder(run, address)
    transfer.pull(address, tmp_path / "pulled")
    run.rename(tmp_path / "moved")
    shutil.rmtree(data)
    assert scores(tmp_path / "moved") == expected
    assert scores(tmp_path / "pulled") == expected
    assert len(set(expected.values())) > len(expected) // 2


def test_without_a_store_the_images_stay_in_the_dataset(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    data, _ = finished
    with Pipeline.open(tmp_path / "run", mock_runs.load(data, "images.store=false")) as pipeline:
        pipeline.run_until("summarize")
        assert pipeline.counts("prepare")["prepare"]["images_stored"] == 0
    images = pl.read_parquet(tmp_path / "run" / "items.parquet")["image"].drop_nulls()
    assert set(images.str.starts_with(f"{data.resolve()}/images/")) == {True}
    assert not (tmp_path / "run" / "images").exists()
    statuses = pl.read_parquet(tmp_path / "run" / "summaries.parquet")["image_status"]
    assert statuses.value_counts().filter(image_status="ok")["count"].item() == images.len()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _replace(path: Path) -> None:
    Image.new("RGB", (16, 16), "pink").save(path)


def _link(path: Path) -> None:
    other = path.parents[2] / "other.png"
    _replace(other)
    path.unlink()
    path.symlink_to(other)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": Path.unlink,
    "replaced": _replace,
    "linked": _link,
    "pipe": _pipe,
    "folder": _folder,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_image_counts_as_missing_for_every_command(
    finished: tuple[Path, Path], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    data, original = finished
    run = shutil.copytree(original, tmp_path / "run")
    before = scores(run)
    items = pl.read_parquet(run / "items.parquet").drop_nulls("image")
    damaged = set(items.filter(image=items["image"][0])["item_id"])
    image = run / items["image"][0]
    FAULTS[fault](image)

    after = scores(run)
    assert {one for one in after if after[one] != before[one]} == damaged
    with Pipeline.open(run, mock_runs.load(data)) as pipeline:
        pipeline.run_until("evaluate")
        counts = pipeline.counts("score")["score/zero_shot"]
        candidates = pl.read_parquet(run / "candidates.parquet").filter(split="test")
        n_damaged = candidates.filter(pl.col("item_id").is_in(list(damaged))).height
        assert (counts["without_image"] > 0) is (n_damaged > 0)
        assert counts["without_image"] >= n_damaged  # full rankings have further candidates
        assert counts["failed"] == 0
    with Pipeline.open(run, mock_runs.load(data), force=True) as pipeline:
        pipeline.run_stage("summarize")
        counts = pipeline.counts("summarize")["summarize"]
        assert counts["image_ok"] == items.height - len(damaged)
        if image.is_dir():
            with pytest.raises(RunFolderError, match="Is a directory"):
                pipeline.run_stage("prepare")
            image.rmdir()
        pipeline.run_stage("prepare")
    # The source still has the image, so that preparing the run again restores it.
    assert scores(run) == before


def test_of_several_images_the_intact_ones_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    data, run = mock_runs.world(tmp_path / "data"), tmp_path / "run"
    for number, path in enumerate(sorted((data / "images").iterdir())):
        second = path.with_stem(f"{path.stem}_1")
        Image.new("RGB", (16, 16), (0, number, 255)).save(second)
    one = scores(make_run(tmp_path / "one", data))
    settings = mock_runs.load(data, "images.per_item=2")
    with Pipeline.open(run, settings) as pipeline:
        pipeline.run_until("infer")
        assert pipeline.counts("summarize")["summarize"].get("image_incomplete") is None
    items = pl.read_parquet(run / "items.parquet").drop_nulls("more_images")
    both = scores(run)
    assert {item_id for item_id in both if both[item_id] != one[item_id]} == set(items["item_id"])
    run = run.rename(tmp_path / "moved")
    shutil.rmtree(data / "images")
    assert scores(run) == both

    damaged, (image,) = items.select("item_id", "more_images").row(0)
    _flip(run / image)
    after = scores(run)
    assert {item_id for item_id in after if after[item_id] != both[item_id]} == {damaged}
    assert after[damaged] == one[damaged]
    with Pipeline.open(run, settings, force=True) as pipeline:
        pipeline.run_stage("summarize")
        counts = pipeline.counts("summarize")["summarize"]
        assert (counts["image_ok"], counts["image_incomplete"]) == (items.height, 1)
    report = pl.read_parquet(run / "summaries.parquet").filter(item_id=damaged)
    assert report.select("image_status", "flags").row(0) == ("ok", "image_incomplete")
