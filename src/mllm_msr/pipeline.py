"""The offline flow: prepare -> summarize -> infer -> train -> score -> evaluate -> report.

Only this module knows the order of the stages. The run folder skips finished work and refuses
work that other settings made; replies of models go through the reply cache, so that a process
killed at any moment loses at most the batch in flight.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from mllm_msr.evaluation.evaluator import evaluate_foreign
from mllm_msr.settings import Settings
from mllm_msr.stages import (
    evaluate,
    infer,
    prepare,
    report,
    score,
    summarize,
    train,
    update,
)
from mllm_msr.store import RunFolder
from mllm_msr.workspace import Progress, Workspace, silent

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
        with RunFolder.open(folder) as run:
            yield cls(Workspace(run, settings, force=force, progress=progress))

    def run_all(self) -> None:
        """Do every stage that is not done yet."""
        for name in STAGES:
            self.run_stage(name)

    def run_stage(self, name: str) -> None:
        """Do one stage, unless it is done.

        Raises:
            StaleStageError: It is done under other settings or inputs.
            RunFolderError: An earlier stage has not been done.
        """
        STAGES[name](self._workspace)
        self._keep_settings()

    def _keep_settings(self) -> None:
        run, text = self._workspace.run, self._workspace.settings.to_yaml()
        kept = run.folder / "config.yaml"
        if not kept.is_file() or kept.read_text(encoding="utf-8") != text:
            run.write_text("config.yaml", text)

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
    """Judge foreign tables of scores; each file's name is its model's.

    Args:
        candidates: Table of candidates, as Parquet or CSV.
        scores: Tables of scores.
        settings: `evaluate.*` is read.

    Returns:
        `{model: {negatives: {metric: {mean, low, high, n}}}}`.
    """
    found: dict[str, Any] = {}
    for path in scores:
        evaluation = evaluate_foreign(
            candidates, path, model=path.stem, **settings.evaluate.model_dump()
        )
        found |= evaluation.summary
    return found
