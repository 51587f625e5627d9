"""The offline pipeline: prepare -> summarize -> infer -> train -> score -> evaluate -> report.

Only this module defines the order of the stages; `align` and `distill` are optional.
The run folder skips finished stages and rejects those that were finished with other settings. Model
responses go through the response cache, so a process that is killed loses at most the batch in
progress.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from mllm_msr import registry
from mllm_msr.config import trust
from mllm_msr.config.loading import Overrides, override
from mllm_msr.config.run_settings import with_checksum
from mllm_msr.config.settings import Settings
from mllm_msr.errors import StaleStageError, UsageError, convert_missing_extras
from mllm_msr.evaluation.aggregation import SEED_MARK, model_of
from mllm_msr.evaluation.evaluator import Evaluation
from mllm_msr.evaluation.external_scores import evaluate_external
from mllm_msr.evaluation.report import notebook
from mllm_msr.evaluation.report.run_status import time_limit_notes
from mllm_msr.pipeline import stage_io
from mllm_msr.pipeline.alignment import align
from mllm_msr.pipeline.context import Progress, RunContext, format_seconds, silent
from mllm_msr.pipeline.cost import budgets
from mllm_msr.pipeline.distillation import distill
from mllm_msr.pipeline.doctor import require_extras
from mllm_msr.pipeline.model_choice import load_with_model
from mllm_msr.pipeline.recommenders import Recommenders, label_of
from mllm_msr.pipeline.run_result import RunReport, RunResult
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.pipeline.stage_settings import require_kept_settings, require_prepared_data
from mllm_msr.pipeline.tracking import track_stages
from mllm_msr.pipeline.update import update
from mllm_msr.ranker.distributed.launch import is_worker
from mllm_msr.ranker.training.trackers import require_trackers
from mllm_msr.storage import layout
from mllm_msr.storage.fork import copy_stages
from mllm_msr.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

STAGES: Final[Mapping[str, Callable[[RunContext, Settings], None]]] = {
    "prepare": stage_io.prepare,
    "align": align,
    "summarize": stage_io.summarize,
    "infer": stage_io.infer,
    "train": stage_io.train,
    "distill": distill,
    "score": stage_io.score,
    "evaluate": stage_io.evaluate,
    "report": stage_io.report,
}

_STAGES_WITHOUT_BASELINES: Final = ("prepare", "align", "summarize", "infer", "train")


class Pipeline:
    """Pipeline over a run folder. `open` creates it; `close` or a `with` block unlocks the folder.

    Attributes:
        context: Run folder, and options for running its stages.
        settings: Settings of the stages.
    """

    def __init__(self, context: RunContext, settings: Settings) -> None:
        self.context = context
        self.settings = settings
        saved = context.run.folder / layout.CONFIG
        self._saved_settings = saved.read_text(encoding="utf-8") if saved.is_file() else ""

    @classmethod
    def open(
        cls,
        folder: str | Path,
        settings: Settings | Overrides | None = None,
        *,
        force: bool = False,
        progress: Progress = silent,
    ) -> Self:
        """Open and lock a run folder, until `close` is called or a `with` block ends.

        Args:
            folder: The run folder; created if it does not exist and the settings name a dataset.
            settings: Checked settings, or those to change, such as {"train.seed": 1} or
                ["train.seed=1"]: in the saved settings of the folder, or in the preset that they
                name as "preset", or else in the preset `default`. None opens an existing run with
                its saved settings. Each stage saves the settings as the folder's `config.yaml`.
            force: Run stages again even if they are finished, also with other settings.
            progress: Shows progress.

        Raises:
            SettingsError: A setting is wrong.
            RunFolderError: There is no such run, and no settings or none with a dataset are given.
            RunLockedError: Another process is using the folder.
        """
        if not isinstance(settings, Settings):
            settings, message = load_with_model(Path(folder), settings)
            if message and not is_worker(os.environ):
                logger.warning("%s", message)
        run = RunFolder.open(folder, worker=is_worker(os.environ))
        try:
            return cls(RunContext(run, progress, force), settings)
        except BaseException:
            run.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the run folder. Calling it twice is harmless."""
        self.run.close()

    def __repr__(self) -> str:
        done = ", ".join(name for name in STAGES if self.counts(name)) or "none"
        return f"Pipeline({str(self.run.folder)!r}, preset={self.settings.preset!r}, done: {done})"

    def _repr_html_(self) -> str:
        """Return the stages and the results of the run for a notebook."""
        rows = []
        for name in STAGES:
            parts = self.counts(name).values()
            seconds = sum(part["seconds"] for part in parts)
            enabled = getattr(getattr(self.settings, name, None), "enabled", True)
            missing = "not run" if enabled else "off"
            rows.append((name, format_seconds(seconds) if parts else missing))
        result = self.result() if self.run.has(layout.METRICS) else None
        return notebook.render(
            "run",
            labels={} if result is None else {name: label_of(name) for name in result["metrics"]},
            folder=str(self.run.folder),
            settings=self.settings,
            stages=rows,
            result=result,
        )

    @property
    def run(self) -> RunFolder:
        """Return the run folder."""
        return self.context.run

    @property
    def tables(self) -> RunTables:
        """Return the tables of the run folder."""
        return RunTables(self.run)

    @property
    def recommenders(self) -> Recommenders:
        """Return the recommenders of the run."""
        return Recommenders(self.context, self.settings)

    def run_all(self, *, done: Callable[[str], object] | None = None) -> None:
        """Run every stage that is not finished; see `run_until`."""
        self.run_until("report", done=done)

    def run_until(self, last: str, *, done: Callable[[str], object] | None = None) -> None:
        """Run every stage up to and including `last` that is not finished.

        Args:
            last: Name of a stage.
            done: Called with the name of each stage after it, except in workers.

        Raises:
            UnknownNameError: There is no such stage.
            SettingsError: An argument of a baseline is out of range.
            MissingExtraError: A package that the models or the training need is not installed.
        """
        _require_stage(last)
        stages = list(STAGES)[: list(STAGES).index(last) + 1]
        require_extras(self.settings, trains="train" in stages)
        if not self.run.is_worker and last not in _STAGES_WITHOUT_BASELINES:
            self.recommenders.require_valid(self.settings.score.baselines)
        for name in stages:
            self.run_stage(name)
            if done is not None and not self.run.is_worker:
                done(name)
            if name == "prepare" and self.context.announces("budgets"):
                for warning in budgets.warnings(self.context, self.settings):
                    logger.warning("%s%s", self.context.label, warning)

    def run_stage(
        self, name: str, *, save_settings: bool = True, redone: Collection[str] = ()
    ) -> None:
        """Run one stage unless it is finished.

        Args:
            name: Name of the stage.
            save_settings: Whether to save the settings as the folder's `config.yaml` afterwards.
            redone: Finished stages whose settings may change, because the caller redoes them.

        Raises:
            UnknownNameError: There is no such stage.
            StaleStageError: The stage was finished with other settings or inputs, or the settings
                change those of another finished stage.
            MissingExtraError: A package that the stage or a tracker in `train.loggers` needs is not
                installed.
            RunFolderError: An earlier stage has not been run.
            SystemExit: This process was a worker of a training run that has finished.
        """
        _require_stage(name)
        if self.run.is_worker:
            if name == "train":
                stage_io.train(self.context, self.settings)
            return
        require_trackers(self.settings.train.loggers)
        before = dict(self.run.stages)
        try:
            if name != "prepare":
                require_prepared_data(self.context, self.settings)
            if save_settings:
                require_kept_settings(self.context, self.settings, name, redone=redone)
            with convert_missing_extras():
                STAGES[name](self.context, self.settings)
        except StaleStageError:
            # The folder keeps the settings of its finished stages.
            self._save_settings(self._saved_settings)
            raise
        if save_settings:
            self.save_settings()
        track_stages(self.run, self.settings, before)

    def save_settings(self) -> None:
        """Save the settings as the folder's `config.yaml`."""
        trust.remember(self.run.folder, self.settings)
        self._save_settings(self._settings_text)

    def with_settings(
        self, settings: Settings | Overrides, *, force: bool | None = None
    ) -> Pipeline:
        """Return a pipeline for the same open run folder with other settings.

        Args:
            settings: Checked settings, or those to change, such as {"train.seed": 1}.
            force: As for `open`; unchanged if None.

        Raises:
            SettingsError: A setting is wrong.
        """
        if not isinstance(settings, Settings):
            settings = override(self.settings, settings)
        force = self.context.force if force is None else force
        return Pipeline(dataclasses.replace(self.context, force=force), settings)

    @contextlib.contextmanager
    def fork(
        self, name: str, settings: Settings, *, shares: Sequence[str] = ()
    ) -> Iterator[Pipeline]:
        """Open a nested run that starts from finished stages of this run.

        Args:
            name: Name of its folder in `variants/`.
            settings: Settings of the nested run.
            shares: Stages to copy if they are finished in this run ("prepare"); "train" and
                "score" include all folds and models. Model responses are copied as well, so that
                no prompt is answered twice.

        Raises:
            RunLockedError: Another process is using its folder.
        """
        worker = self.run.is_worker
        with RunFolder.open(self.run.inside(f"{layout.VARIANTS}/{name}"), worker=worker) as other:
            if not worker:
                # All variants of a run read images with the same projector.
                copy_stages(other, self.run, ["align", *shares] if shares else shares)
            label = f"{self.context.label}{name}: "
            yield Pipeline(dataclasses.replace(self.context, run=other, label=label), settings)

    def counts(self, name: str) -> dict[str, Any]:
        """Return counts, seconds and outputs of a stage from the manifest.

        Raises:
            UnknownNameError: There is no such stage.
        """
        if name != "update":
            _require_stage(name)
        return {
            key: {**entry["counts"], "seconds": entry["seconds"], "outputs": [*entry["outputs"]]}
            for key, entry in self.run.stages.items()
            if key.split("/")[0] == name
        }

    def update(self, file: Path | str) -> dict[str, int]:
        """Add new interactions to a finished run; see `pipeline.update.update`."""
        return update(self.context, self.settings, file)

    def result(self) -> RunResult:
        """Return the run's metrics, the path of its report, if it has one, and notes by model."""
        run = self.run
        report = run.folder / layout.REPORT_HTML if run.has(layout.REPORT_HTML) else None
        return RunResult(
            run=str(run.folder),
            report=None if report is None else str(report),
            metrics=run.read_json(layout.METRICS),
            notes=time_limit_notes(run.stages),
        )

    def report(self) -> RunReport:
        """Return the report of the run, which notebooks show as a page.

        Raises:
            RunFolderError: The stage `report` has not been run.
        """
        return RunReport(self.run.verified(layout.REPORT_HTML))

    @functools.cached_property
    def _settings_text(self) -> str:
        return with_checksum(self.settings.to_yaml())

    def _save_settings(self, text: str) -> None:
        saved = self.run.folder / layout.CONFIG
        if text and not (saved.is_file() and saved.read_text(encoding="utf-8") == text):
            self.run.write_text(saved.name, text)


def _require_stage(name: str) -> None:
    """Raise an error that lists the stages if there is no stage of that name."""
    if name not in STAGES:
        raise registry.unknown_name_error("stage", name, list(STAGES))


def evaluate_files(
    candidates: Path | str,
    scores: Sequence[Path | str],
    settings: Settings,
    *,
    main: str | None = None,
) -> Evaluation:
    """Evaluate and compare external score tables; each model has the name of its file.

    Files of the same name in different folders are named after their folder as well.

    Args:
        candidates: Table of candidates, in any format of `data/reading/reader.py`.
        scores: Score tables.
        settings: Settings, of which the section `evaluate` is used.
        main: The model whose comparisons with each other model are a family of tests; by default
            that of the first table.

    Returns:
        The evaluation: `summary` is `{model: {negatives: {metric: {mean, low, high, n}}}}`, and
        `details["comparisons"]` has the paired comparisons of all models.

    Raises:
        UsageError: No score table is given, or two have the same name, even with their folder.
        UnknownNameError: No score table has the name `main`.
    """
    paths = _name_models([Path(path) for path in scores])
    if not paths:
        raise UsageError("No score table is given. Give at least one.")
    if main is None:
        main = next(iter(paths))
    elif main not in paths:
        raise registry.unknown_name_error("model", main, list(paths))
    evaluation = evaluate_external(
        Path(candidates), paths, main=main, **settings.evaluate.model_dump()
    )
    for name, path in paths.items():
        if n_undefined := evaluation.details["undefined"][name]:
            logger.warning(
                "%s: %d lists are left out, because they lack a positive or a negative.",
                path.name,
                n_undefined,
            )
        if n_unscored := evaluation.details["unscored"][name]:
            logger.warning("%s: %d candidates without a score rank last.", path.name, n_unscored)
    return evaluation


def _name_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Return score files by the name of their model.

    Raises:
        UsageError: Two files have the same name, even with their folder.
    """
    stems = [model_of(path.stem) for path in paths]
    names = [
        # Behind its mark, a name is that of a seed, whose values are averaged with other seeds.
        stem if stems.count(stem) == 1 else f"{folder.replace(SEED_MARK, '_')}/{stem}"
        for folder, stem in zip((path.absolute().parent.name for path in paths), stems, strict=True)
    ]
    repeated = [str(path) for path, name in zip(paths, names, strict=True) if names.count(name) > 1]
    if repeated:
        raise UsageError(
            f"The score files {', '.join(repeated)} have the same name, which names their model. "
            "Rename them, so that each name occurs once."
        )
    return dict(zip(names, paths, strict=True))
