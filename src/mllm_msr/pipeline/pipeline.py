"""The offline flow: prepare -> summarize -> infer -> train -> score -> evaluate -> report.

Only this module knows the order of the stages. The run folder skips finished work and refuses
work that other settings made; responses of models go through the response cache, so that a process
killed at any moment loses at most the batch in flight.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from mllm_msr.config.settings import Settings
from mllm_msr.errors import StaleStageError
from mllm_msr.evaluation.external_scores import evaluate_external
from mllm_msr.pipeline.context import Progress, Workspace, silent
from mllm_msr.pipeline.cost import estimate
from mllm_msr.pipeline.stages import (
    evaluate,
    infer,
    prepare,
    report,
    score,
    summarize,
    train,
    update,
)
from mllm_msr.ranker.distributed.launch import is_worker
from mllm_msr.storage.fork import copy_stages
from mllm_msr.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

STAGES: Final[Mapping[str, Callable[[Workspace], None]]] = {
    "prepare": prepare.run,
    "summarize": summarize.run,
    "infer": infer.run,
    "train": train.run,
    "score": score.run,
    "evaluate": evaluate.run,
    "report": report.run,
}


class Pipeline:
    """A run folder, its settings and the stages in their order."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        kept = self._settings_file
        self._found_settings = kept.read_text(encoding="utf-8") if kept.is_file() else ""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, settings: Settings, *, force: bool = False, progress: Progress = silent
    ) -> Iterator[Self]:
        """Hold a run folder for the time of the `with` block.

        Args:
            folder: The run folder; made where there is none.
            settings: Checked settings; kept as the folder's `config.yaml`.
            force: Redo stages that other settings made, instead of refusing.
            progress: How progress is shown.

        Raises:
            RunLockedError: Another process works in the folder.
        """
        with RunFolder.open(folder, worker=is_worker(os.environ)) as run:
            yield cls(Workspace(run, settings, force=force, progress=progress))

    @property
    def run(self) -> RunFolder:
        """The run folder."""
        return self._workspace.run

    @property
    def settings(self) -> Settings:
        """The settings that the stages are done under."""
        return self._workspace.settings

    @property
    def workspace(self) -> Workspace:
        """What the stages are given."""
        return self._workspace

    def run_all(self) -> None:
        """Do every stage that is not done yet."""
        self.run_until("report")

    def run_until(self, last: str) -> None:
        """Do every stage up to `last`, itself included, that is not done yet."""
        for name in STAGES:
            self.run_stage(name)
            if name == last:
                return
            if name == "prepare" and not self.run.is_worker:
                for sentence in estimate.warnings(self._workspace):
                    logger.warning("%s", sentence)

    def run_stage(self, name: str) -> None:
        """Do one stage, unless it is done.

        Raises:
            StaleStageError: It is done under other settings or inputs.
            RunFolderError: An earlier stage has not been done.
            SystemExit: This process was started to join a training, and that has ended.
        """
        if self.run.is_worker and name != "train":
            return
        if self.run.is_worker:
            STAGES[name](self._workspace)
            return
        try:
            STAGES[name](self._workspace)
        except StaleStageError:
            # The folder keeps the settings that its finished stages were made under.
            self._keep_settings(self._found_settings)
            raise
        self._keep_settings(self._workspace.settings.to_yaml())

    def under(self, settings: Settings, *, force: bool | None = None) -> Pipeline:
        """The same run folder under other settings, held as long as this one is.

        Args:
            settings: Checked settings.
            force: As for `open`; as here where it is None.
        """
        work = self._workspace
        force = work.force if force is None else force
        return Pipeline(Workspace(work.run, settings, force=force, progress=work.progress))

    @contextlib.contextmanager
    def fork(
        self, name: str, settings: Settings, *, shares: Sequence[str] = ()
    ) -> Iterator[Pipeline]:
        """Another run inside this one's folder that begins with finished stages of this one.

        Args:
            name: Its folder's name in `variants/`.
            settings: Its own settings.
            shares: Stages that are taken over where they are finished here ("prepare"); those
                of all folds or models together ("train", "score"). Responses of models are taken
                over too, so that no question is asked twice.

        Raises:
            RunLockedError: Another process works in it.
        """
        work = self._workspace
        follow = self.run.is_worker
        with RunFolder.open(self.run.inside(f"variants/{name}"), worker=follow) as other:
            if not follow:
                copy_stages(other, self.run, shares)
            yield Pipeline(Workspace(other, settings, force=work.force, progress=work.progress))

    @property
    def _settings_file(self) -> Path:
        return self.run.folder / "config.yaml"

    def _keep_settings(self, text: str) -> None:
        kept = self._settings_file
        if not text or (kept.is_file() and kept.read_text(encoding="utf-8") == text):
            return
        self.run.write_text(kept.name, text)

    def counts(self, name: str) -> dict[str, Any]:
        """What a stage counted, how long it took and what it wrote, from the manifest."""
        return {
            key: {**entry["counts"], "seconds": entry["seconds"], "outputs": [*entry["outputs"]]}
            for key, entry in self._workspace.run.stages.items()
            if key.split("/")[0] == name
        }

    def update(self, file: Path) -> dict[str, int]:
        """Add new interactions; see `stages.update`."""
        return update.run(self._workspace, file)

    def result(self) -> dict[str, Any]:
        """The run's metrics and the path of its report, as far as they are made."""
        run = self._workspace.run
        return {
            "run": str(run.folder),
            "report": str(run.folder / "report.html") if run.has("report.html") else None,
            "metrics": json.loads(run.verified("metrics.json").read_text(encoding="utf-8")),
        }


def judge_files(candidates: Path, scores: Sequence[Path], settings: Settings) -> dict[str, Any]:
    """Judge external tables of scores; each file's name is its model's.

    Args:
        candidates: Table of candidates, as Parquet or CSV.
        scores: Tables of scores.
        settings: `evaluate.*` is read.

    Returns:
        `{model: {negatives: {metric: {mean, low, high, n}}}}`.
    """
    found: dict[str, Any] = {}
    for path in scores:
        evaluation = evaluate_external(
            candidates, path, model=path.stem, **settings.evaluate.model_dump()
        )
        found |= evaluation.summary
    return found
