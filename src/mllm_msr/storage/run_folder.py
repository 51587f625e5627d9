"""The run folder: tables between the stages, each vouched for by the manifest, and the lock.

Every stage of the flow reads its inputs from a run folder and writes its outputs there. A stage
that was finished under the same settings, inputs, templates and model is skipped; under others
it is refused. The manifest's entry of a stage is written last and taken away before the stage is
redone, so that a process killed at any moment leaves either a finished stage or an unfinished
one, never a finished one with other content.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Final, Self

import filelock
import polars as pl

from mllm_msr.errors import DamagedFileError, RunFolderError, RunLockedError
from mllm_msr.storage import atomic, manifest
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.storage.uri import require_local

__all__ = ["ResponseCache", "RunFolder", "Stage"]

logger = logging.getLogger(__name__)

_LOCK: Final = ".lock"
_HOLDER: Final = ".lock.pid"


class RunFolder:
    """One run on disk; made by `open` and used in a `with` block.

    Attributes:
        folder: The folder's absolute path.
        read_only: Whether it was opened for reading, without the lock.
        is_worker: Whether it was opened to join a training that its holder leads.
    """

    def __init__(
        self, folder: Path, *, lock: filelock.BaseFileLock | None, is_worker: bool = False
    ) -> None:
        self.folder = folder
        self.read_only = lock is None
        self.is_worker = is_worker
        self._lock = lock
        self._cache: ResponseCache | None = None

    @classmethod
    def open(cls, path: Path | str, *, read_only: bool = False, worker: bool = False) -> Self:
        """Open a run folder and hold it for this process.

        Args:
            path: The folder; made where it does not exist.
            read_only: Take no lock and write nothing; any number of readers may stand beside
                a writer.
            worker: As `read_only`, to enter stages beside the holder, who says what is stale.

        Raises:
            RunLockedError: Another process works in it; the message names its id.
            RunFolderError: It cannot be made, written or (for readers) found.
            DamagedFileError: The manifest is not readable.
        """
        folder = require_local(path).absolute()
        if read_only or worker:
            if not folder.is_dir():
                raise RunFolderError(
                    needed="a run folder",
                    received=f"{folder}, where there is none",
                    remedy="name the folder of a run, or make one with 'mllm-msr run'",
                )
            manifest.load(folder)
            return cls(folder, lock=None, is_worker=worker)
        lock = _acquire(folder)
        try:
            removed = atomic.remove_temporaries(folder)
            manifest.load(folder)
        except BaseException:
            lock.release()
            raise
        if removed:
            logger.info("removed %d unfinished files of a process that was killed", removed)
        return cls(folder, lock=lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the response cache and give the folder free. Calling it twice is harmless."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None
        if self._lock is not None and self._lock.is_locked:
            (self.folder / _HOLDER).unlink(missing_ok=True)
            self._lock.release()

    @property
    def cache(self) -> ResponseCache:
        """The cache of model responses, opened on first use and closed with the folder."""
        self.require_writable()
        if self._cache is None:
            self._cache = ResponseCache(self.folder / "cache" / "responses.sqlite")
        return self._cache

    @property
    def stages(self) -> Mapping[str, manifest.Entry]:
        """What the manifest says of each finished stage, in the order in which they finished."""
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
        force: bool = False,
    ) -> Iterator[Stage]:
        """Do a stage's work once.

        Args:
            name: The stage ("summarize", "score/popularity").
            settings: Flat, JSON-able settings that change the outputs.
            inputs: Names of the outputs of earlier stages that it reads.
            templates: Hash of each prompt template that it uses.
            model: Identity of the model that it asks.
            force: Redo it even where it is finished.

        Yields:
            The stage; where its `finished` is true there is nothing to do. When the block ends
            normally the manifest records the outputs; after an exception it claims nothing.

        Raises:
            StaleStageError: It was finished under other conditions; the message names them.
            RunFolderError: An input is missing; the message names the stage that makes it.
        """
        stages = manifest.load(self.folder)
        if self.is_worker:
            yield Stage(self, name, finished=name in stages)
            return
        self.require_writable()
        conditions = manifest.Conditions(
            # Through JSON and back: compared is what the manifest can hold (tuples are lists).
            settings=json.loads(json.dumps(dict(settings or {}))),
            inputs={key: manifest.require(stages, key).sha256 for key in inputs},
            templates=dict(templates or {}),
            model=model,
        )
        entry = stages.pop(name, None)
        if entry is not None and not force:
            manifest.refuse_if_stale(name, entry, conditions)
            if all((self.folder / output).exists() for output in entry["outputs"]):
                yield Stage(self, name, finished=True)
                return
            logger.warning("an output of the finished stage %r is gone, it is done again", name)
        if entry is not None:
            manifest.save(self.folder, stages)
        stage = Stage(self, name, finished=False)
        started = time.perf_counter()
        yield stage
        done = manifest.Entry(
            **conditions,
            counts=dict(stage.counts),
            seconds=round(time.perf_counter() - started, 3),
            outputs=dict(stage.outputs),
        )
        # Loaded again: another stage may have been finished inside this one.
        manifest.save(self.folder, {**manifest.load(self.folder), name: done})

    def has(self, name: str) -> bool:
        """Whether a finished stage has made this output."""
        return manifest.find(manifest.load(self.folder), name) is not None

    def read(self, name: str) -> pl.DataFrame:
        """Read a table after checking that it is what a stage wrote.

        Args:
            name: The table's name ("summaries", "scores/popularity").

        Raises:
            RunFolderError: No stage has made it; the message names the stage to run.
            DamagedFileError: It is gone, or its content has changed since.
        """
        return pl.read_parquet(self.verified(name), glob=False)

    def scan(self, name: str) -> pl.LazyFrame:
        """Like `read`, for a table that is better not held in memory as a whole."""
        return pl.scan_parquet(self.verified(name), glob=False)

    def verified(self, name: str) -> Path:
        """Path of an output (table, file or folder) after comparing it with the manifest.

        Args:
            name: A table's name without its ending, or a file's or folder's path in the run.

        Raises:
            RunFolderError: No stage has made it; the message names the stage to run.
            DamagedFileError: It is gone, or its content has changed since.
        """
        output = manifest.require(manifest.load(self.folder), name)
        path = self.folder / output.path
        try:
            sha256, size = atomic.content_hash(path)
        except OSError as error:
            received = f"{path} ({error.strerror})"
        else:
            if sha256 == output.sha256:
                return path
            received = f"{path} with {size:,} bytes, SHA-256 {sha256[:12]}..."
        raise DamagedFileError(
            needed=f"{output.path} as the stage {output.stage!r} wrote it "
            f"({output.size:,} bytes, SHA-256 {output.sha256[:12]}...)",
            received=received,
            remedy=f"restore the file or redo the stage {output.stage!r} with --force",
        )

    def write_text(self, name: str, text: str) -> Path:
        """Write a file that belongs to no stage ("config.yaml"), at once or not at all.

        Returns:
            The file's path.

        Raises:
            RunFolderError: The disk is full or the folder cannot be written.
        """
        self.require_writable()
        path = self.inside(name)
        atomic.write_text(path, text)
        return path

    def inside(self, name: str) -> Path:
        """The path of a name in the run folder, whether there is something or not.

        Raises:
            RunFolderError: The name leads out of the folder.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise RunFolderError(
                needed="a name inside the run folder",
                received=repr(name),
                remedy="use a relative path without '..'",
            )
        return self.folder / relative

    def require_writable(self) -> None:
        """Make sure that this process may write.

        Raises:
            RunFolderError: The folder was opened for reading, or is closed already.
        """
        if self._lock is None or not self._lock.is_locked:
            raise RunFolderError(
                needed=f"{self.folder} opened for writing",
                received="a folder opened read-only" if self.read_only else "a closed one",
                remedy="open it without read_only and write inside the with block",
            )


class Stage:
    """A stage at work; made by `RunFolder.stage`.

    Attributes:
        name: Its name.
        finished: Whether it was finished before, so that nothing is left to do.
    """

    def __init__(self, run: RunFolder, name: str, *, finished: bool) -> None:
        self.name = name
        self.finished = finished
        self._run = run
        self._outputs: dict[str, manifest.Record] = {}
        self._counts: dict[str, float] = {}

    @property
    def outputs(self) -> Mapping[str, manifest.Record]:
        """What it has made so far, by path relative to the run folder."""
        return MappingProxyType(self._outputs)

    @property
    def counts(self) -> Mapping[str, float]:
        """What it has counted so far."""
        return MappingProxyType(self._counts)

    def write(self, name: str, frame: pl.DataFrame | pl.LazyFrame) -> Path:
        """Write a table as `name`.parquet, at once or not at all.

        Args:
            name: The table's name; may have folders ("scores/popularity").
            frame: The rows; a lazy frame is computed while it is written.

        Returns:
            The file's path.

        Raises:
            RunFolderError: The disk is full, the folder cannot be written, or the name belongs
                to another stage.
        """
        path = self._claim(f"{name}.parquet")
        with atomic.replace_file(path) as temporary:
            if isinstance(frame, pl.LazyFrame):
                frame.sink_parquet(temporary, compression="zstd")
            else:
                frame.write_parquet(temporary, compression="zstd")
        return self._record(path)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file ("metrics.json"), at once or not at all.

        Returns:
            The file's path.

        Raises:
            RunFolderError: As for `write`.
        """
        path = self._claim(name)
        atomic.write_text(path, text)
        return self._record(path)

    def register(self, name: str) -> Path:
        """Record a file or folder that was made otherwise ("adapter") as an output.

        Args:
            name: Its path in the run folder; it must be complete.

        Raises:
            RunFolderError: It does not exist, or the name belongs to another stage.
        """
        path = self._claim(name)
        with atomic.wrap_os_errors(path):
            atomic.sync_tree(path)
        return self._record(path)

    def count(self, **counts: float) -> None:
        """Add to the numbers that the manifest shows for this stage ("items", "tokens")."""
        for key, value in counts.items():
            self._counts[key] = self._counts.get(key, 0) + value

    def _claim(self, name: str) -> Path:
        self._run.require_writable()
        path = self._run.inside(name)
        owner = manifest.find(self._run.stages, name)
        if owner is not None:
            raise RunFolderError(
                needed=f"an output that the stage {self.name!r} may write",
                received=f"{name!r}, which the finished stage {owner.stage!r} has made",
                remedy="choose another name, or redo that stage with --force",
            )
        return path

    def _record(self, path: Path) -> Path:
        sha256, size = atomic.content_hash(path)
        name = path.relative_to(self._run.folder).as_posix()
        self._outputs[name] = manifest.Record(sha256=sha256, bytes=size)
        return path


def _acquire(folder: Path) -> filelock.BaseFileLock:
    with atomic.wrap_os_errors(folder / _LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        # A thread may close what another has opened; the process is what holds the folder.
        lock = filelock.FileLock(folder / _LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise RunLockedError(
                needed=f"{folder} for this process alone",
                received=f"a folder in which process {_holder(folder)} works",
                remedy="wait for it, end it, or take another run folder",
            ) from error
        try:
            # Beside the lock, as some versions of filelock empty the lock file on a mere attempt.
            (folder / _HOLDER).write_text(str(os.getpid()), encoding="ascii")
        except BaseException:
            lock.release()
            raise
    return lock


def _holder(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(int((folder / _HOLDER).read_text(encoding="ascii")))
    return "(of unknown id)"
