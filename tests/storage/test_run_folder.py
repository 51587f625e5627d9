"""Run folder: stages run once, count only when complete, and one process writes at a time."""

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
    """Run a first stage unless it is finished, and return whether it ran."""
    with run.stage("prepare", settings={"k": 5}, force=force) as stage:
        if not stage.finished:
            stage.write("items", frame)
        return not stage.finished


def summarize(run: RunFolder) -> bool:
    """Run a second stage, which reads the first one's table, and return whether it ran."""
    with run.stage("summarize", inputs=["items"], model="tiny@1") as stage:
        if not stage.finished:
            stage.write("summaries", run.read("items").select("item_id"))
            stage.count(items=2)
        return not stage.finished


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
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


def test_a_finished_stage_is_skipped_in_this_and_later_processes(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        assert prepare(run)
        assert not prepare(run)
    with RunFolder.open(tmp_path) as run:
        assert not prepare(run)
        assert prepare(run, force=True)


def test_the_manifest_records_conditions_counts_and_outputs(tmp_path: Path) -> None:
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
    assert "cores" in entry.pop("hardware")
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


def test_tuples_in_settings_do_not_make_a_stage_stale(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        for expected in (False, True):
            with run.stage("prepare", settings={"sizes": (1, 2), "rate": 0.1}) as stage:
                assert stage.finished is expected


def test_a_stage_with_other_settings_is_rejected_unless_forced(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        message = "setting k was 5 and is now 6.*redo the stage with the new ones: .* --force"
        with pytest.raises(StaleStageError, match=message), run.stage("prepare", settings={"k": 6}):
            pytest.fail("the stage must not start")
        assert run.read("items").equals(ITEMS)
        with run.stage("prepare", settings={"k": 6}, force=True) as stage:
            assert not stage.finished


def test_a_redone_stage_makes_its_readers_stale_only_if_its_output_changed(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        assert summarize(run)
        prepare(run, force=True)
        assert not summarize(run)
        prepare(run, ITEMS.head(1), force=True)
        with pytest.raises(
            StaleStageError, match=r"input items was [0-9a-f]{12}\.\.\. and is now "
        ):
            summarize(run)


def test_a_failed_stage_is_not_finished(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with pytest.raises(ZeroDivisionError), run.stage("prepare") as stage:
            stage.write("items", ITEMS.head(1 // 0))
        assert dict(run.stages) == {}
        assert prepare(run)


def test_a_failed_redo_leaves_the_stage_unfinished(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        with pytest.raises(ZeroDivisionError), run.stage("prepare", force=True) as stage:
            stage.write("items", ITEMS.head(1 // 0))
        with pytest.raises(RunFolderError, match="Run the stage 'prepare' first"):
            run.read("items")


def test_a_missing_input_names_the_stage_to_run(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path) as run,
        pytest.raises(RunFolderError, match=r"has no 'items'\..*Run the stage 'prepare' first"),
    ):
        summarize(run)


def test_a_finished_stage_whose_output_is_missing_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        (tmp_path / "items.parquet").unlink()
        with pytest.raises(DamagedFileError, match="No such file"):
            run.read("items")
        with caplog.at_level(logging.WARNING):
            assert prepare(run)
        message = "items.parquet cannot be read (No such file or directory); redoing the finished"
        assert message in caplog.text
        assert not prepare(run)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"another file of any length"])
def test_a_finished_stage_whose_output_is_damaged_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        summarize(run)
        (tmp_path / "items.parquet").write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert prepare(run)
        assert f"items.parquet has {len(content)} bytes" in caplog.text
        # The rebuilt table is the same, so its readers stay finished.
        assert not summarize(run)


def test_a_failed_repair_keeps_what_is_known_about_the_stage(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        intact = (tmp_path / "items.parquet").read_bytes()
        (tmp_path / "items.parquet").write_bytes(b"")
        with pytest.raises(ZeroDivisionError), run.stage("prepare", settings={"k": 5}):
            _ = 1 // 0
        with pytest.raises(DamagedFileError, match=r"items\.parquet has 0 bytes"):
            run.read("items")
        (tmp_path / "items.parquet").write_bytes(intact)
        assert not prepare(run)


def test_a_derived_stage_is_redone_when_its_inputs_have_changed(tmp_path: Path) -> None:
    def present(style: str, shown: str) -> bool:
        with run.stage(
            "report",
            settings={"style": style},
            inputs=["items"],
            shown={"counts": shown},
            derived=True,
        ) as stage:
            if not stage.finished:
                stage.write_text("report.md", f"{run.read('items').height} {shown}")
            return not stage.finished

    with RunFolder.open(tmp_path) as run:
        prepare(run)
        assert present("plain", "1")
        assert not present("plain", "1")
        assert present("plain", "2")
        prepare(run, ITEMS.head(1), force=True)
        assert present("plain", "2")
        assert (tmp_path / "report.md").read_text() == "1 2"
        with pytest.raises(StaleStageError, match="setting style was 'plain'"):
            present("bold", "2")


def test_flipped_bits_and_truncation_are_detected_before_reading(tmp_path: Path) -> None:
    rng = random.Random(3)
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        path = tmp_path / "items.parquet"
        intact = path.read_bytes()
        for number in range(60):
            damaged = bytearray(intact)
            if number % 3:
                damaged[rng.randrange(len(intact))] ^= 1 << rng.randrange(8)
            else:
                del damaged[rng.randrange(len(intact)) :]
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=r"run 'mllm-msr prepare --run "):
                run.read("items")
        path.write_bytes(intact)
        assert run.read("items").equals(ITEMS)


def test_a_folder_is_registered_and_verified(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with run.stage("train") as stage:
            (tmp_path / "adapter").mkdir()
            (tmp_path / "adapter" / "weights").write_bytes(b"123")
            stage.register("adapter")
            with pytest.raises(RunFolderError, match=r"Cannot write .*nothing: No such file"):
                stage.register("nothing")
        assert run.verified("adapter") == tmp_path / "adapter"
        (tmp_path / "adapter" / "weights").write_bytes(b"124")
        with pytest.raises(
            DamagedFileError, match=r"adapter has 3 bytes .* not what the stage 'train' wrote"
        ):
            run.verified("adapter")


def test_a_json_file_is_verified_before_it_is_read(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        with run.stage("evaluate") as stage:
            stage.write_text("metrics.json", '{"auc": 0.5}')
        assert run.read_json("metrics.json") == {"auc": 0.5}
        (tmp_path / "metrics.json").write_text('{"auc": 0.9}')
        with pytest.raises(DamagedFileError, match="not what the stage 'evaluate' wrote"):
            run.read_json("metrics.json")


def test_two_stages_cannot_write_the_same_output(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        prepare(run)
        message = r"'other' cannot write 'items\.parquet': the finished stage 'prepare'"
        with run.stage("other") as stage, pytest.raises(RunFolderError, match=message):
            stage.write("items", ITEMS)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", ""])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with (
        RunFolder.open(tmp_path / "run") as run,
        pytest.raises(
            RunFolderError, match=f"{re.escape(repr(name))} is not a path inside the run folder"
        ),
    ):
        run.write_text(name, "text")


def test_text_is_written_outside_of_stages(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        assert run.write_text("config.yaml", "k: 5\n").read_text() == "k: 5\n"


def test_responses_are_stored_in_the_folder(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path) as run:
        run.cache.put_many({"a": "1"})
        assert run.cache is run.cache
    with RunFolder.open(tmp_path) as run:
        assert run.cache.get_many(["a"]) == {"a": "1"}


def test_readers_need_no_lock_and_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"There is no run folder .*run\."):
        RunFolder.open(tmp_path / "run", read_only=True)
    with RunFolder.open(tmp_path / "run") as run:
        prepare(run)
        with RunFolder.open(tmp_path / "run", read_only=True) as reader:
            assert reader.read("items").equals(ITEMS)
            summarize(run)
            assert reader.has("summaries")
            for write in (lambda: reader.cache, lambda: reader.write_text("a", "b")):
                with pytest.raises(RunFolderError, match="it was opened read-only"):
                    write()
    with pytest.raises(RunFolderError, match="it is closed"):
        run.write_text("a", "b")


def test_a_second_process_is_rejected_with_the_id_of_the_first(tmp_path: Path) -> None:
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
        for _ in range(2):  # a failed attempt must not overwrite the process id
            with pytest.raises(RunLockedError, match=f"in use by process {holder.pid}"):
                RunFolder.open(tmp_path)
        holder.kill()
        holder.wait()
    message = f"in use by process {os.getpid()}"
    with RunFolder.open(tmp_path), pytest.raises(RunLockedError, match=message):
        RunFolder.open(tmp_path)
    with RunFolder.open(tmp_path):
        pass


def test_a_folder_that_cannot_be_created_is_a_readable_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="Cannot write"):
            RunFolder.open(path)


def test_a_damaged_manifest_is_rejected_and_the_lock_released(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    for _ in range(2):
        with pytest.raises(DamagedFileError, match="or delete it to run all stages again"):
            RunFolder.open(tmp_path)


def test_temporary_files_of_killed_processes_are_removed_on_opening(tmp_path: Path) -> None:
    left = tmp_path / "scores" / ".popularity.parquet.01ab.mllm-msr-tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    with RunFolder.open(tmp_path, read_only=True):
        assert left.exists()
    with RunFolder.open(tmp_path):
        assert not left.exists()


def test_only_the_owner_can_read_a_run(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with RunFolder.open(tmp_path / "runs" / "run") as run:
            with run.stage("train") as stage:
                stage.write("scores/popularity", ITEMS)
                (run.folder / "adapter").mkdir()
                (run.folder / "adapter" / "weights").write_bytes(b"123")
                stage.register("adapter")
            run.write_text("config.yaml", "k: 5\n")
            run.cache.put_many({"key": "{}"})
            modes = {
                path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
                for path in tmp_path.rglob("*")
            }
    finally:
        os.umask(before)
    assert {name for name in modes if "responses.sqlite" in name} == {
        f"runs/run/cache/responses.sqlite{suffix}" for suffix in ("", "-shm", "-wal")
    }
    for name, mode in modes.items():
        expected = 0o700 if (tmp_path / name).is_dir() else 0o600
        assert mode == expected, name


def test_a_shared_run_folder_stays_shared(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run") as run:
        run.folder.chmod(0o750)
    with RunFolder.open(tmp_path / "run") as run:
        assert run.folder.stat().st_mode & 0o777 == 0o750
