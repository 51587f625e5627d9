"""The run folder: work is done once, claimed only when whole, and held by one process."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import DamagedFileError, RunFolderError, RunLockedError, StaleStageError
from mllm_msr.storage import atomic
from mllm_msr.storage.run_folder import RunFolder

ITEMS = pl.DataFrame({"item_id": ["a", "b"], "title": ["one", "two"]})


def prepare(run: RunFolder, frame: pl.DataFrame = ITEMS, *, force: bool = False) -> bool:
    """A first stage; returns whether it had to work."""
    with run.stage("prepare", settings={"k": 5}, force=force) as stage:
        if not stage.finished:
            stage.write("items", frame)
        return not stage.finished


def summarize(run: RunFolder) -> bool:
    """A second stage that reads the first one's table."""
    with run.stage("summarize", inputs=["items"], model="tiny@1") as stage:
        if not stage.finished:
            stage.write("summaries", run.read("items").select("item_id"))
            stage.count(items=2)
        return not stage.finished


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run") as run:
        with run.stage("score/popularity") as stage:
            stage.write("scores/popularity", ITEMS)
            stage.write("scores/lazy [1]*", ITEMS.lazy())
        assert run.read("scores/popularity").equals(ITEMS)
        assert run.scan("scores/lazy [1]*").collect().equals(ITEMS)
        assert run.has("scores/popularity")
        assert not run.has("scores")


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run, run.stage("prepare") as stage:
        first = stage.write("first", ITEMS).read_bytes()
        assert stage.write("second", ITEMS.clone()).read_bytes() == first


def test_finished_work_is_skipped_also_by_a_later_process(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        assert prepare(run)
        assert not prepare(run)
    with RunFolder.open(tmp_path) as run:
        assert not prepare(run)
        assert prepare(run, force=True)


def test_the_manifest_tells_all_that_a_stage_depended_on_and_made(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        with run.stage(
            "summarize",
            settings={"sizes": (1, 2), "item_type": "film"},
            inputs=["items"],
            templates={"fusion": "f" * 64},
            model="tiny@1",
        ) as stage:
            stage.write_text("notes.txt", "words")
            stage.count(items=2, prompt_tokens=10)
            stage.count(prompt_tokens=5)
    entry = json.loads((tmp_path / "manifest.json").read_text())["stages"]["summarize"]
    assert entry.pop("seconds") >= 0
    items = tmp_path / "items.parquet"
    assert entry == {
        "settings": {"sizes": [1, 2], "item_type": "film"},
        "inputs": {"items": atomic.content_hash(items)[0]},
        "templates": {"fusion": "f" * 64},
        "model": "tiny@1",
        "counts": {"items": 2, "prompt_tokens": 15},
        "outputs": {
            "notes.txt": {"sha256": atomic.content_hash(tmp_path / "notes.txt")[0], "bytes": 5}
        },
    }


def test_settings_that_json_writes_otherwise_do_not_make_stale(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        for expected in (False, True):
            with run.stage("prepare", settings={"sizes": (1, 2), "rate": 0.1}) as stage:
                assert stage.finished is expected


def test_other_conditions_are_refused_until_forced(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        message = "setting k was 5, is 6.*redo it with --force"
        with pytest.raises(StaleStageError, match=message), run.stage("prepare", settings={"k": 6}):
            pytest.fail("the stage must not begin")
        assert run.read("items").equals(ITEMS)
        with run.stage("prepare", settings={"k": 6}, force=True) as stage:
            assert not stage.finished


def test_redone_work_makes_what_reads_it_stale_only_if_it_changed(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        assert summarize(run)
        prepare(run, force=True)
        assert not summarize(run)
        prepare(run, ITEMS.head(1), force=True)
        with pytest.raises(StaleStageError, match=r"input items was [0-9a-f]{12}\.\.\., is "):
            summarize(run)


def test_a_stage_that_fails_claims_nothing(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with pytest.raises(ZeroDivisionError), run.stage("prepare") as stage:
            stage.write("items", ITEMS.head(1 // 0))
        assert dict(run.stages) == {}
        assert prepare(run)


def test_a_redone_stage_that_fails_claims_neither_old_nor_new(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        with pytest.raises(ZeroDivisionError), run.stage("prepare", force=True) as stage:
            stage.write("items", ITEMS.head(1 // 0))
        with pytest.raises(RunFolderError, match="run the stage 'prepare' first"):
            run.read("items")


def test_a_missing_input_names_the_stage_to_run(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path) as run,
        pytest.raises(RunFolderError, match=r"needed 'items', .*run the stage 'prepare' first"),
    ):
        summarize(run)


def test_a_finished_stage_whose_output_is_gone_is_done_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        (tmp_path / "items.parquet").unlink()
        with pytest.raises(DamagedFileError, match="No such file"):
            run.read("items")
        with caplog.at_level(logging.WARNING):
            assert prepare(run)
        assert "'prepare' is gone" in caplog.text


def test_flipped_bits_and_truncation_are_found_before_reading(tmp_path: Path) -> None:
    rng = random.Random(3)
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        path = tmp_path / "items.parquet"
        sound = path.read_bytes()
        for number in range(60):
            damaged = bytearray(sound)
            if number % 3:
                damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
            else:
                del damaged[rng.randrange(len(sound)) :]
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=r"redo the stage 'prepare' with --force"):
                run.read("items")
        path.write_bytes(sound)
        assert run.read("items").equals(ITEMS)


def test_folders_made_otherwise_are_registered_and_checked(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with run.stage("train") as stage:
            (tmp_path / "adapter").mkdir()
            (tmp_path / "adapter" / "weights").write_bytes(b"123")
            stage.register("adapter")
            with pytest.raises(RunFolderError, match=r"a path that can be written.*nothing"):
                stage.register("nothing")
        assert run.verified("adapter") == tmp_path / "adapter"
        (tmp_path / "adapter" / "weights").write_bytes(b"124")
        with pytest.raises(DamagedFileError, match="needed adapter as the stage 'train' wrote it"):
            run.verified("adapter")


def test_two_stages_cannot_write_one_output(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        message = r"'items\.parquet', which .* 'prepare' has made"
        with run.stage("other") as stage, pytest.raises(RunFolderError, match=message):
            stage.write("items", ITEMS)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", ""])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with (
        RunFolder.open(tmp_path / "run") as run,
        pytest.raises(
            RunFolderError, match=f"inside the run folder, received {re.escape(repr(name))}"
        ),
    ):
        run.write_text(name, "text")


def test_text_outside_a_stage_is_written_whole(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        assert run.write_text("config.yaml", "k: 5\n").read_text() == "k: 5\n"


def test_responses_are_kept_in_the_folder(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        run.cache.put_many({"a": "1"})
        assert run.cache is run.cache
    with RunFolder.open(tmp_path) as run:
        assert run.cache.get_many(["a"]) == {"a": "1"}


def test_readers_need_no_lock_and_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"needed a run folder, .*where there is none"):
        RunFolder.open(tmp_path / "run", read_only=True)
    with RunFolder.open(tmp_path / "run") as run:
        prepare(run)
        with RunFolder.open(tmp_path / "run", read_only=True) as reader:
            assert reader.read("items").equals(ITEMS)
            summarize(run)
            assert reader.has("summaries")
            for write in (lambda: reader.cache, lambda: reader.write_text("a", "b")):
                with pytest.raises(RunFolderError, match="a folder opened read-only"):
                    write()
    with pytest.raises(RunFolderError, match="received a closed one"):
        run.write_text("a", "b")


def test_a_second_process_is_refused_with_the_holders_id(tmp_path: Path) -> None:
    code = (
        "import sys, mllm_msr.storage.run_folder as s\n"
        "with s.RunFolder.open(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for _ in range(2):  # a refused attempt must not make the holder's id forgotten
            with pytest.raises(RunLockedError, match=f"in which process {holder.pid} works"):
                RunFolder.open(tmp_path)
        holder.kill()
        holder.wait()
    message = f"process {os.getpid()} works"
    with RunFolder.open(tmp_path), pytest.raises(RunLockedError, match=message):
        RunFolder.open(tmp_path)
    with RunFolder.open(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="a path that can be written"):
            RunFolder.open(path)


def test_a_damaged_manifest_is_told_and_the_lock_given_back(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    for _ in range(2):
        with pytest.raises(DamagedFileError, match="or remove it to do all stages again"):
            RunFolder.open(tmp_path)


def test_what_killed_processes_left_is_removed_on_opening(tmp_path: Path) -> None:
    left = tmp_path / "scores" / ".popularity.parquet.01ab.mllm-msr-tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    with RunFolder.open(tmp_path, read_only=True):
        assert left.exists()
    with RunFolder.open(tmp_path):
        assert not left.exists()
