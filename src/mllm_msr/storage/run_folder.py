"""The run folder: outputs of the stages on disk, their manifest, and a lock.

Every stage of the pipeline reads its inputs from a run folder and writes its outputs to it. The
run folder guarantees:

* One writer. A run folder is open for writing in at most one process; any number of processes may
  read it at the same time.
* Finished means complete. A stage is finished if and only if the manifest has an entry for it. The
  entry is written after all outputs are flushed to the disk, and removed before the stage is
  redone. A process killed at any point leaves finished and unfinished stages, nothing in between.
* No repeated work. A finished stage is skipped if its settings, inputs, prompt templates and model
  are unchanged. Otherwise it is rejected, unless the caller forces it to run again.
* Verified reads. An output is compared with its hash in the manifest before it is read, and all
  outputs of a stage before the stage is skipped; a stage with a damaged output is redone.
* Privacy. Only the owner of a run folder can read what it contains.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Self, final

import polars as pl

from mllm_msr.errors import DamagedFileError, RunFolderError
from mllm_msr.storage import atomic, layout, manifest, verification
from mllm_msr.storage.hardware import describe_hardware
from mllm_msr.storage.process_lock import ProcessLock, run_lock
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.storage.run_lookup import require_run
from mllm_msr.storage.uri import require_local

logger = logging.getLogger(__name__)


@final
class RunFolder:
    """A run on disk. Open it with `RunFolder.open`, usually in a `with` statement.

    An output is named by its path relative to the run folder ("metrics.json", "adapter"); a table
    is named without ".parquet" ("summaries", "scores/popularity").

    Attributes:
        folder: Absolute path of the run folder.
        read_only: Whether the run folder was opened without the lock, so that writing raises.
        is_worker: Whether this process is a rank above 0 of a distributed training that the holder
            of the lock runs. Implies `read_only`.
        announced: Finished stages and other facts that were logged, so that each is logged once.
    """

    def __init__(self, folder: Path, *, lock: ProcessLock | None, is_worker: bool = False) -> None:
        self.folder = folder
        self.read_only = lock is None
        self.is_worker = is_worker
        self.announced: set[str] = set()
        self._lock = lock
        self._cache: ResponseCache | None = None

    @classmethod
    def open(cls, path: Path | str, *, read_only: bool = False, worker: bool = False) -> Self:
        """Open a run folder.

        Args:
            path: The run folder; created unless it is opened only for reading.
            read_only: Open without the lock, even while another process writes.
            worker: Like `read_only`, for ranks above 0 of a distributed training: `stage` then
                does not check conditions, since rank 0 does.

        Raises:
            RunLockedError: Another process has it open for writing; the message has its id.
            RunFolderError: It cannot be created or written, it is opened only for reading and
                does not exist, or another version wrote it in another format.
            DamagedFileError: The manifest is not valid.
        """
        folder = require_local(path).absolute()
        if read_only or worker:
            if not folder.is_dir():
                require_run(path)
            manifest.load(folder)
            return cls(folder, lock=None, is_worker=worker)
        lock = run_lock(folder)
        lock.acquire()
        try:
            manifest.load(folder)
            removed = atomic.remove_temporary_files(folder)
        except BaseException:
            lock.release()
            raise
        if removed:
            logger.info("removed %d temporary files that a killed process left", removed)
        return cls(folder, lock=lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the response cache and release the lock. Calling it twice is harmless."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None
        if self._lock is not None:
            self._lock.release()

    @property
    def cache(self) -> ResponseCache:
        """Return the cache of model responses; it is opened on first use.

        Raises:
            RunFolderError: The run folder is read-only or closed.
        """
        self.require_writable()
        if self._cache is None:
            self._cache = ResponseCache(self.folder / layout.RESPONSE_CACHE)
        return self._cache

    @property
    def stages(self) -> Mapping[str, manifest.Entry]:
        """Return the finished stages by name, in the order in which they finished."""
        return MappingProxyType(manifest.load(self.folder))

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        *,
        settings: Mapping[str, object] | None = None,
        inputs: Sequence[str] = (),
        templates: Mapping[str, str] | None = None,
        model: str | None = None,
        shown: Mapping[str, str] | None = None,
        derived: bool = False,
        force: bool = False,
    ) -> Iterator[Stage]:
        """Run a stage unless it is finished under the same conditions.

        Args:
            name: Name of the stage ("summarize", "score/popularity").
            settings: Settings that the outputs depend on; the values must be valid JSON.
            inputs: Names of the outputs of other stages that the stage reads.
            templates: Hashes of the prompt templates that the stage uses, by name.
            model: Fingerprint of the model that the stage calls.
            shown: Hashes of everything else that the stage reads from the run, by name; recorded
                with the inputs.
            derived: Whether the stage only presents its inputs, so that it is redone without
                force when they have changed.
            force: Run the stage again even if it is finished.

        Yields:
            The stage. If its `finished` is true, the block must do nothing. If the block succeeds,
            the manifest records the outputs; if it raises, the stage stays unfinished.

        Raises:
            StaleStageError: The stage was finished with other conditions; the message lists them.
            RunFolderError: An input is missing; the message names the stage that writes it.
        """
        stages = manifest.load(self.folder)
        if self.is_worker:
            yield Stage(self, name, finished=name in stages)
            return
        self.require_writable()
        conditions = manifest.Conditions(
            # Compare what the manifest can store: JSON turns tuples into lists.
            settings=json.loads(json.dumps(dict(settings or {}))),
            inputs={key: manifest.require(stages, key).sha256 for key in inputs}
            | {**(shown or {})},
            templates=dict(templates or {}),
            model=model,
        )
        entry = stages.pop(name, None)
        if entry and not force and self._is_valid(name, entry, conditions, derived=derived):
            yield Stage(self, name, finished=True)
            return
        if force and entry is not None:
            manifest.save(self.folder, stages)
        started = time.perf_counter()
        stage = Stage(self, name, finished=False)
        yield stage
        done = stage.entry(conditions, seconds=time.perf_counter() - started)
        # Load again: another stage may have finished inside this one.
        manifest.save(self.folder, {**manifest.load(self.folder), name: done})

    def has(self, name: str) -> bool:
        """Return whether a finished stage has written an output."""
        return manifest.find(manifest.load(self.folder), name) is not None

    def read(self, name: str) -> pl.DataFrame:
        """Verify and read a table.

        Args:
            name: Name of the table ("summaries", "scores/popularity").

        Raises:
            RunFolderError: No finished stage has written it; the message names the stage to run.
            DamagedFileError: It is missing, or its content is not what the stage wrote.
        """
        return pl.read_parquet(self.verified(name), glob=False)

    def scan(self, name: str) -> pl.LazyFrame:
        """Verify a table and read it lazily. Arguments and errors are those of `read`."""
        return pl.scan_parquet(self.verified(name), glob=False)

    def read_json(self, name: str) -> Any:
        """Verify a JSON file and return its content. Arguments and errors are those of `read`."""
        return json.loads(self.verified(name).read_text(encoding="utf-8"))

    def verified(self, name: str) -> Path:
        """Verify an output and return its path.

        Args:
            name: Name of a table, or path of a file or folder relative to the run folder.

        Raises:
            RunFolderError: No finished stage has written it; the message names the stage to run.
            DamagedFileError: It is missing, or its content is not what the stage wrote.
        """
        output = manifest.require(manifest.load(self.folder), name)
        path = self.folder / output.path
        problem = verification.find_damage(path, sha256=output.sha256, size=output.size)
        if problem is None:
            return path
        command = output.stage.partition("/")[0]
        raise DamagedFileError(
            f"{problem}, which is not what the stage {output.stage!r} wrote. Restore the file, or "
            f"run 'mllm-msr {command} --run {self.folder}', which redoes the stage."
        )

    def _is_valid(
        self, name: str, entry: manifest.Entry, conditions: manifest.Conditions, *, derived: bool
    ) -> bool:
        """Return whether a stage was finished under these conditions and its outputs are intact."""
        expected = conditions
        if derived:
            expected = manifest.Conditions(**{**conditions, "inputs": entry["inputs"]})
        manifest.require_unchanged(self.folder, name, entry, expected)
        if entry["inputs"] != conditions["inputs"]:
            return False
        for path, record in entry["outputs"].items():
            problem = verification.find_damage(
                self.folder / path, sha256=record["sha256"], size=record["bytes"]
            )
            if problem is not None:
                logger.warning("%s; redoing the finished stage %r", problem, name)
                return False
        return True

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file that belongs to no stage ("config.yaml") atomically.

        Returns:
            Path of the file.

        Raises:
            RunFolderError: The disk is full, or the folder is read-only or not writable.
        """
        self.require_writable()
        path = self.inside(name)
        atomic.write_text(path, text)
        return path

    def inside(self, name: str) -> Path:
        """Return the absolute path of a name in the run folder, whether or not it exists.

        Raises:
            RunFolderError: The path is outside the run folder.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise RunFolderError(
                f"{name!r} is not a path inside the run folder. Use a relative path without '..'."
            )
        return self.folder / relative

    def require_writable(self) -> None:
        """Raise an error unless this process may write to the run folder.

        Raises:
            RunFolderError: The run folder was opened read-only, or is closed.
        """
        if self._lock is None or not self._lock.is_held:
            state = "was opened read-only" if self.read_only else "is closed"
            raise RunFolderError(
                f"Cannot write to the run folder {self.folder}: it {state}. Open it without "
                "read_only and write inside the with statement."
            )


@final
class Stage:
    """A stage while it runs; created by `RunFolder.stage`.

    Outputs count only once the `with` statement of `RunFolder.stage` ends without an exception.

    Attributes:
        name: Name of the stage.
        finished: Whether the stage was finished before, so that there is nothing to do.
    """

    def __init__(self, run: RunFolder, name: str, *, finished: bool) -> None:
        self.name = name
        self.finished = finished
        self._run = run
        self._outputs: dict[str, manifest.Record] = {}
        self._counts: dict[str, float] = {}

    def write(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> Path:
        """Write a table atomically as an output of the stage.

        Args:
            name: Name of the table; may contain folders ("scores/popularity").
            frame: The rows. A lazy frame is computed while it is written.

        Returns:
            Path of the file, `name` with the suffix ".parquet".

        Raises:
            RunFolderError: The disk is full, the folder is not writable, or another stage has
                written an output of this name.
        """
        path = self._output_path(f"{name}.parquet")
        with atomic.replace_file(path) as temporary:
            if isinstance(frame, pl.LazyFrame):
                frame.sink_parquet(temporary, compression="zstd")
            else:
                frame.write_parquet(temporary, compression="zstd")
        return self._record(path)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file ("metrics.json") atomically as an output of the stage.

        Returns:
            Path of the file.

        Raises:
            RunFolderError: See `write`.
        """
        path = self._output_path(name)
        atomic.write_text(path, text)
        return self._record(path)

    def register(self, name: str) -> Path:
        """Record an existing file or folder ("adapter") as an output of the stage.

        Args:
            name: Its path relative to the run folder. Its content must be complete.

        Returns:
            Its absolute path.

        Raises:
            RunFolderError: It does not exist, or another stage has written an output of this name.
        """
        path = self._output_path(name)
        with atomic.wrap_os_errors(path):
            atomic.sync_tree(path)
        return self._record(path)

    def count(self, **counts: float) -> None:
        """Add to the counts that the manifest and the report show ("items", "prompt_tokens")."""
        for key, value in counts.items():
            self._counts[key] = self._counts.get(key, 0) + value

    def entry(self, conditions: manifest.Conditions, *, seconds: float) -> manifest.Entry:
        """Return the manifest entry of the stage with the outputs and counts so far."""
        return manifest.Entry(
            **conditions,
            counts=dict(self._counts),
            seconds=round(seconds, 3),
            outputs=dict(self._outputs),
            hardware=describe_hardware(),
        )

    def _output_path(self, name: str) -> Path:
        self._run.require_writable()
        path = self._run.inside(name)
        owner = manifest.find(self._run.stages, name)
        if owner is not None and owner.stage != self.name:
            raise RunFolderError(
                f"The stage {self.name!r} cannot write {name!r}: the finished stage "
                f"{owner.stage!r} has written it. Choose another name, or redo that stage with "
                "--force."
            )
        return path

    def _record(self, path: Path) -> Path:
        sha256, size = atomic.content_hash(path)
        name = path.relative_to(self._run.folder).as_posix()
        self._outputs[name] = manifest.Record(sha256=sha256, bytes=size)
        return path
