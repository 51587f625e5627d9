"""Forked run folders: finished stages are copied once, and the source never changes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import DamagedFileError, StaleStageError
from mllm_msr.storage.fork import copy_stages
from mllm_msr.storage.layout import CONTENT_CACHE
from mllm_msr.storage.run_folder import RunFolder


def write(run: RunFolder, stage: str, value: int, *, inputs: tuple[str, ...] = ()) -> None:
    with run.stage(stage, settings={"value": value}, inputs=inputs, force=True) as work:
        if not work.finished:
            work.write(stage.replace("/", "_"), pl.DataFrame({"value": [value]}))


@pytest.fixture
def source(tmp_path: Path):
    with RunFolder.open(tmp_path / "source") as run:
        write(run, "prepare", 1)
        write(run, "train/0", 2, inputs=("prepare",))
        write(run, "train/1", 3)
        write(run, "infer", 4)
        run.cache.put_many({"question": '"answer"'})
        yield run


def test_stages_are_copied_with_their_files_and_responses(source: RunFolder, tmp_path: Path):
    with RunFolder.open(tmp_path / "target") as target:
        assert copy_stages(target, source, ["prepare", "train"]) == [
            "prepare",
            "train/0",
            "train/1",
        ]
        assert target.stages == {k: v for k, v in source.stages.items() if k != "infer"}
        assert target.read("train_1")["value"].to_list() == [3]
        assert not target.has("infer")
        assert target.cache.get_many(["question"]) == {"question": '"answer"'}
        assert copy_stages(target, source, ["prepare", "train"]) == []


def test_content_vectors_are_copied_once(source: RunFolder, tmp_path: Path):
    vectors = source.inside(CONTENT_CACHE) / "abc.safetensors"
    vectors.parent.mkdir(parents=True)
    vectors.write_bytes(b"vectors")
    with RunFolder.open(tmp_path / "target") as target:
        copy_stages(target, source, [])
        copy = target.inside(CONTENT_CACHE) / "abc.safetensors"
        assert copy.read_bytes() == b"vectors"
        written = copy.stat().st_mtime_ns, copy.stat().st_ino
        copy_stages(target, source, [])
        assert (copy.stat().st_mtime_ns, copy.stat().st_ino) == written


def test_changes_in_the_fork_never_reach_the_source(source: RunFolder, tmp_path: Path):
    with RunFolder.open(tmp_path / "target") as target:
        copy_stages(target, source, ["prepare", "infer"])
        write(target, "infer", 5)
        target.cache.put_many({"another": '"answer"'})
    assert source.read("infer")["value"].to_list() == [4]
    assert source.cache.get_many(["another"]) == {}


def test_a_changed_stage_is_copied_again_and_makes_its_readers_stale(
    source: RunFolder, tmp_path: Path
):
    with RunFolder.open(tmp_path / "target") as target:
        copy_stages(target, source, ["prepare"])
        write(target, "score", 6, inputs=("prepare",))
        write(source, "prepare", 7)
        assert copy_stages(target, source, ["prepare"]) == ["prepare"]
        assert target.read("prepare")["value"].to_list() == [7]
        with (
            pytest.raises(StaleStageError, match="input prepare was"),
            target.stage("score", settings={"value": 6}, inputs=["prepare"]),
        ):
            pass


def test_a_damaged_output_is_not_copied(source: RunFolder, tmp_path: Path):
    (source.folder / "prepare.parquet").write_bytes(b"something else")
    with RunFolder.open(tmp_path / "target") as target:
        with pytest.raises(DamagedFileError, match="prepare"):
            copy_stages(target, source, ["prepare"])
        assert target.stages == {}


def test_folders_and_downloaded_images_are_copied(source: RunFolder, tmp_path: Path):
    (source.folder / "images").mkdir()
    (source.folder / "images" / "sha256-a.png").write_bytes(b"an image")
    (source.folder / "adapter").mkdir()
    (source.folder / "adapter" / "weights").write_bytes(b"weights")
    with source.stage("train/2") as stage:
        stage.register("adapter")
    with RunFolder.open(tmp_path / "target") as target:
        copy_stages(target, source, ["prepare", "train"])
        image = target.folder / "images" / "sha256-a.png"
        assert image.samefile(source.folder / "images" / "sha256-a.png")
        assert (target.verified("adapter") / "weights").read_bytes() == b"weights"
