"""Hyperparameter search for baselines on validation users: `mllm-msr tune`.

The search is not a stage of the pipeline: it reads the tables of the stage "prepare" and writes
`tuning/` in the run folder, with one Optuna study per model. Every model gets the same number of
trials; the first trial uses its defaults. A trial is fitted on the training data of one fold and
evaluated on the candidates of its validation users. Rows of test users are never read. A killed
search resumes to the same result: the n-th trial depends only on the seed and on the trials before
it.

In cross-validation, the validation users of one fold are test users of another fold. The resulting
settings are therefore free of leakage only in the fold that was searched.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import polars as pl
import yaml

from mllm_msr import registry, tables
from mllm_msr.baselines import _factory
from mllm_msr.errors import (
    DataError,
    MissingExtraError,
    SettingsError,
    StaleStageError,
    TrainingError,
    UsageError,
)
from mllm_msr.evaluation import metrics
from mllm_msr.evaluation.per_user import metrics_from_scores
from mllm_msr.interfaces import TrainingData, Tunable
from mllm_msr.pipeline.context import changed
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.search_space import Choice, Range, Space, Value
from mllm_msr.storage import atomic, layout, manifest

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

_BEST: Final = "best.yaml"
BEST_SETTINGS: Final = f"{layout.TUNING}/{_BEST}"

# Attributes of studies and trials in Optuna's database.
_CONDITIONS: Final = "conditions"
_ERROR: Final = "error"
_SECONDS: Final = "seconds"


@dataclass(frozen=True, slots=True)
class TuningResult:
    """Result of a search for one model.

    Attributes:
        model: Name of the baseline.
        trials: Number of trials, including failed ones.
        failed: Number of failed trials.
        metric: The metric that was optimized: its mean over validation users, averaged over kinds
            of negatives.
        default: Value of the metric with the default arguments; None if that trial failed.
        best: Best value of the metric.
        settings: Arguments that reached the best value.
        seconds: Total duration of the trials.
        fold: Fold whose validation users the trials were evaluated on.
        seed: Seed of the search.
    """

    model: str
    trials: int
    failed: int
    metric: str
    default: float | None
    best: float
    settings: dict[str, Value]
    seconds: float
    fold: int
    seed: int


def tune(
    pipeline: Pipeline,
    models: Sequence[str],
    *,
    trials: int,
    metric: str = metrics.SECONDARY,
    fold: int | None = None,
    seed: int = 0,
) -> list[TuningResult]:
    """Search hyperparameters of baselines and write the best ones to `tuning/best.yaml`.

    Args:
        pipeline: The run; its stage "prepare" is run if it is not finished.
        models: Names of baselines that declare a search space.
        trials: Total number of trials per model, including those of earlier calls.
        metric: One of `evaluation.metrics.metric_names()`.
        fold: Fold to search in; None for the first one.
        seed: Seed of the search.

    Returns:
        One result per model; `tuning/trials.json` contains the same.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: A model declares no search space, or the metric or the fold does not exist.
        DataError: The fold has no validation users.
        StaleStageError: The folder contains a study of a model with other conditions.
        TrainingError: All trials of a model failed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError("optuna", "tune")
    if metric not in metrics.metric_names():
        raise registry.unknown_name_error("metric", metric, metrics.metric_names())
    settings = pipeline.settings
    fixed = {name: settings.baselines.arguments(name) for name in models}
    spaces = {name: _search_space(name, fixed[name]) for name in models}
    pipeline.run_stage("prepare")
    fold = pipeline.tables.fold(fold)
    if pipeline.tables.candidates(fold, "validation").is_empty():
        raise DataError(
            f"Fold {fold} has no validation users to evaluate trials on. Prepare the run with a "
            "larger data.validation_fraction, or search in another fold."
        )
    recommenders, stages = pipeline.recommenders, pipeline.run.stages
    folders = _factory.Folders(pipeline.run.inside(layout.CONTENT_CACHE))
    content = changed(settings.baselines, "baselines.", include=["content"])
    folder, results = pipeline.run.inside(layout.TUNING), []
    for name in models:
        data = recommenders.training_data(name, fold)
        search = _Search(
            name, spaces[name], fixed[name], data, folders, metric=metric, fold=fold, seed=seed
        )
        read = recommenders.baseline_inputs(name, [fold])
        tables_read = {table: manifest.require(stages, table).sha256 for table in read}
        conditions = {"fixed settings": {**fixed[name], **content}, "input tables": tables_read}
        with pipeline.context.progress(f"tune {name}", trials) as advance:
            results.append(search.run(folder, conditions, trials, advance))
        _write_results(folder, results)
    return results


@dataclass(frozen=True, slots=True)
class _Search:
    """Search for one model."""

    model: str
    space: Space
    fixed: Mapping[str, Any]
    data: TrainingData
    folders: _factory.Folders
    metric: str
    fold: int
    seed: int

    def run(
        self,
        folder: Path,
        conditions: Mapping[str, object],
        trials: int,
        advance: Callable[[int], object],
    ) -> TuningResult:
        """Run trials until the model's study has `trials` of them.

        Args:
            folder: Folder of the studies.
            conditions: What trials depend on besides the arguments of the search.
            trials: Total number of trials, including those of earlier calls.
            advance: Called with numbers of finished trials, including earlier ones.

        Raises:
            StaleStageError: Earlier trials had other conditions.
            TrainingError: All trials failed.
        """
        with self._open_study(folder) as study:
            self._check_conditions(study, conditions)
            n_finished = len(_finished_trials(study))
            advance(n_finished)
            for number in range(n_finished, trials):
                self._run_trial(study, number)
                advance(1)
            return self._result(study)

    @contextlib.contextmanager
    def _open_study(self, folder: Path) -> Iterator[optuna.Study]:
        """Open the model's study, or create it."""
        import optuna  # noqa: PLC0415 - an extra, and slow to import

        folder.mkdir(parents=True, exist_ok=True)
        optuna_logger = logging.getLogger("optuna")
        level = optuna_logger.level
        optuna_logger.setLevel(logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / self.model}.sqlite")
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.model,
                direction="maximize" if metrics.higher_is_better(self.metric) else "minimize",
                load_if_exists=True,
            )
            for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
                # The process of this trial was killed, so the trial does not count.
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            yield study
        finally:
            storage.remove_session()
            optuna_logger.setLevel(level)

    def _check_conditions(self, study: optuna.Study, given: Mapping[str, object]) -> None:
        """Store the conditions of the trials in a new study, or check those of an existing one."""
        conditions = {
            "search space": {key: str(values) for key, values in sorted(self.space.items())},
            "metric": self.metric,
            "fold": self.fold,
            "seed": self.seed,
            **given,
        }
        known = study.user_attrs.get(_CONDITIONS)
        if known is None:
            study.set_user_attr(_CONDITIONS, conditions)
        elif known != conditions:
            differing = [key for key in conditions if known.get(key) != conditions[key]]
            raise StaleStageError(
                f"The search for {self.model!r} cannot resume because of changes since its start: "
                f"{', '.join(differing)}. Restore the old values, or delete "
                f"{layout.TUNING}/{self.model}.sqlite to start again."
            )

    def _run_trial(self, study: optuna.Study, number: int) -> None:
        import optuna  # noqa: PLC0415 - an extra, and slow to import

        state = np.random.SeedSequence([self.seed, number]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(state[0]))
        waiting = optuna.trial.TrialState.WAITING
        if number == 0 and not study.get_trials(deepcopy=False, states=[waiting]):
            study.enqueue_trial(self._defaults())
        trial = study.ask()
        arguments = {key: _suggest(trial, key, values) for key, values in self.space.items()}
        start = time.perf_counter()
        try:
            value = self._evaluate(arguments)
        except (SettingsError, TrainingError) as error:
            logger.warning("Trial %d of %s failed: %s", number, self.model, error)
            trial.set_user_attr(_ERROR, str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        trial.set_user_attr(_SECONDS, round(time.perf_counter() - start, 3))
        study.tell(trial, value)

    def _result(self, study: optuna.Study) -> TuningResult:
        finished = _finished_trials(study)
        succeeded = [trial for trial in finished if trial.value is not None]
        if not succeeded:
            last = finished[-1].user_attrs[_ERROR]
            raise TrainingError(
                f"All {len(finished)} trials of {self.model!r} failed. Change its settings or "
                f"narrow its search space. The error of the last trial: {last}"
            )
        defaults = self._defaults()
        default = next((trial.value for trial in succeeded if trial.params == defaults), None)
        return TuningResult(
            model=self.model,
            trials=len(finished),
            failed=len(finished) - len(succeeded),
            metric=self.metric,
            default=default,
            best=cast("float", study.best_trial.value),
            settings={**self.fixed, **study.best_trial.params},
            seconds=round(sum(trial.user_attrs[_SECONDS] for trial in succeeded), 3),
            fold=self.fold,
            seed=self.seed,
        )

    def _defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(_factory.baseline_class(self.model)).parameters
        return {key: parameters[key].default for key in self.space}

    def _evaluate(self, arguments: Mapping[str, Value]) -> float:
        """Return the metric's mean over validation users, averaged over kinds of negatives."""
        model = _factory.make(self.model, {**self.fixed, **arguments}, folders=self.folders)
        model.fit(self.data)
        candidates = self.data.candidates.filter(split="validation")
        scores = model.score(candidates, self.data.interactions)
        per_user = metrics_from_scores(
            tables.conform(scores, tables.SCORES, name=self.model), model=self.model
        ).filter(pl.col(self.metric).is_not_nan())
        parts = per_user.sort("user_id").partition_by("negatives", maintain_order=False)
        # NumPy sums in a fixed order; Polars' threads do not, which changes the last digit.
        return float(np.mean(sorted(part[self.metric].to_numpy().mean() for part in parts)))


def _search_space(name: str, fixed: Mapping[str, Any]) -> Space:
    """Return the search space of a baseline without the arguments set in the settings."""
    kind = _factory.baseline_class(name)
    if not issubclass(kind, Tunable):
        raise UsageError(
            f"The baseline {name!r} declares no search space. Leave it out, or add a class method "
            "'space'."
        )
    return {key: values for key, values in kind.space().items() if key not in fixed}


def _finished_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials with a value or an error; the others are running or were killed."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.value is not None or _ERROR in trial.user_attrs
    ]


def _suggest(trial: optuna.Trial, key: str, values: Range | Choice) -> Value:
    if isinstance(values, Choice):
        return cast("Value", trial.suggest_categorical(key, values.values))
    if values.is_integer:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _write_results(folder: Path, results: Sequence[TuningResult]) -> None:
    """Merge results into the files of earlier searches."""
    trials = folder / "trials.json"
    known = json.loads(trials.read_text(encoding="utf-8")) if trials.is_file() else {}
    known |= {result.model: asdict(result) for result in results}
    atomic.write_text(trials, json.dumps(known, indent=2) + "\n")
    best = {"baselines": {name: record["settings"] for name, record in sorted(known.items())}}
    heading = (
        "# Written by 'mllm-msr tune' from validation users; use it with --config. The numbers of\n"
        "# trials and the values of the defaults are in trials.json.\n"
    )
    atomic.write_text(folder / _BEST, heading + yaml.safe_dump(best, sort_keys=False))
