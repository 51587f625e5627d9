"""Search for baselines' settings on validation users: `mllm-msr tune`.

Beside the flow: it reads what `prepare` made and writes `tuning/` in the run folder, one Optuna
study per model. Every model gets the same number of trials, of which the first is its defaults.
A trial is fitted on one fold's training data and judged on the validation users' candidates; rows
of test users are never read. A search that was killed goes on as if it had not been: what the
n-th trial proposes depends on the seed and on the trials before it alone.

In a cross-validation the validation users of one fold are test users of another. Settings found
here are therefore beyond doubt only in the fold that they were searched in.
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
from mllm_msr.baselines._factory import Places
from mllm_msr.errors import (
    DataError,
    MissingExtraError,
    SettingsError,
    StaleStageError,
    TrainingError,
    UsageError,
)
from mllm_msr.evaluation.metrics import metric_names, metrics_from_scores
from mllm_msr.interfaces import TrainingData, Tunable
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.search_space import Range, Space, Value
from mllm_msr.storage import atomic, layout, manifest

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

FOLDER: Final = "tuning"
_FACTS: Final = "facts"
_PROBLEM: Final = "problem"
_SECONDS: Final = "seconds"
_READ: Final = ("interactions", "items", "splits", "candidates")


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found.

    Attributes:
        model: The baseline.
        trials: Trials done, failed ones included.
        failed: Those that failed.
        metric: What was maximised: its mean over validation users and kinds of negatives.
        default: Its value under the constructor's defaults; None where they failed.
        best: Its best value.
        settings: The arguments that reached it.
        seconds: Of all trials together.
        fold: The fold whose validation users judged.
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
    metric: str = "ndcg@5",
    fold: int | None = None,
    seed: int = 0,
) -> list[Tuned]:
    """Search the settings of baselines and write the best as `tuning/best.yaml`.

    Args:
        pipeline: The run; its stage "prepare" is done where it is not yet.
        models: Baselines that declare a space.
        trials: Trials of each model altogether, those of earlier calls included.
        metric: A name of `evaluation.metrics.metric_names()`.
        fold: Fold to search in; the first that was prepared where it is None.
        seed: Seed of the search.

    Returns:
        One record per model; `tuning/trials.json` holds the same.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: A model declares no space, or the metric is unknown.
        DataError: There are no validation users.
        StaleStageError: A study in the folder was begun under other conditions.
        TrainingError: No trial of a model succeeded.
    """
    _refuse_impossible(metric)
    spaces = {name: _space(name, pipeline.settings.baselines.arguments(name)) for name in models}
    pipeline.run_stage("prepare")
    work = pipeline.workspace
    fold = work.folds()[0] if fold is None else fold
    data = work.training_data(fold)
    _refuse_unjudged(data, fold=fold)
    folder = pipeline.run.inside(FOLDER)
    found = []
    for name in models:
        search = _Search(
            model=name,
            space=spaces[name],
            fixed=pipeline.settings.baselines.arguments(name),
            data=data,
            places=Places(pipeline.run.inside(layout.CONTENT_CACHE)),
            metric=metric,
            fold=fold,
            seed=seed,
        )
        with work.progress(f"tune {name}", trials) as advance, search.study(folder) as study:
            search.refuse_other_facts(study, _inputs(pipeline))
            search.go_on(study, trials, advance)
            found.append(search.result(study))
        _write(folder, found)
    return found


@dataclass(frozen=True, slots=True)
class _Search:
    """One model's search."""

    model: str
    space: Space
    fixed: Mapping[str, Any]
    data: TrainingData
    places: Places
    metric: str
    fold: int
    seed: int

    @contextlib.contextmanager
    def study(self, folder: Path) -> Iterator[optuna.Study]:
        """The model's study, from its file where there is one."""
        import optuna  # noqa: PLC0415 - an extra, and slow to import

        folder.mkdir(parents=True, exist_ok=True)
        logger = logging.getLogger("optuna")
        level = logger.level
        logger.setLevel(logging.WARNING)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / self.model}.sqlite")
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=self.model,
                direction="maximize",
                load_if_exists=True,
            )
            for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
                # Left by a process that was killed: it has told nothing and counts for nothing.
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            yield study
        finally:
            storage.remove_session()
            logger.setLevel(level)

    def refuse_other_facts(self, study: optuna.Study, inputs: Mapping[str, str]) -> None:
        """Keep with the study what it depends on, and compare.

        Raises:
            StaleStageError: It was begun under other conditions.
        """
        facts = {
            "space": {key: str(values) for key, values in sorted(self.space.items())},
            "fixed": dict(self.fixed),
            "metric": self.metric,
            "fold": self.fold,
            "seed": self.seed,
            "inputs": dict(inputs),
        }
        known = study.user_attrs.get(_FACTS)
        if known is None:
            study.set_user_attr(_FACTS, facts)
        elif known != facts:
            changed = [key for key in facts if known.get(key) != facts[key]]
            raise StaleStageError(
                needed=f"the study of {self.model!r} as it was begun",
                received=f"another {' and '.join(changed)}",
                remedy=f"go back to the old ones, or remove {FOLDER}/{self.model}.sqlite",
            )

    def go_on(self, study: optuna.Study, trials: int, advance: Callable[[int], object]) -> None:
        """Do trials until there are so many, telling `advance` of each, the earlier ones too."""
        advance(self.n_done(study))
        while self.n_done(study) < trials:
            self.try_next(study)
            advance(1)

    def n_done(self, study: optuna.Study) -> int:
        """Trials that have told a value or a problem."""
        return len(study.get_trials(deepcopy=False)) - len(_unfinished(study))

    def try_next(self, study: optuna.Study) -> None:
        """Do one more trial."""
        import optuna  # noqa: PLC0415 - an extra, and slow to import

        number = self.n_done(study)
        drawn = np.random.SeedSequence([self.seed, number]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(drawn[0]))
        waiting = optuna.trial.TrialState.WAITING
        if number == 0 and not study.get_trials(deepcopy=False, states=[waiting]):
            study.enqueue_trial(self._defaults())
        trial = study.ask()
        arguments = {key: _suggested(trial, key, values) for key, values in self.space.items()}
        started = time.perf_counter()
        try:
            value = self._value(arguments)
        except (SettingsError, TrainingError) as error:
            logger.warning("trial %d of %s failed: %s", number, self.model, error)
            trial.set_user_attr(_PROBLEM, str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        trial.set_user_attr(_SECONDS, round(time.perf_counter() - started, 3))
        study.tell(trial, value)

    def result(self, study: optuna.Study) -> Tuned:
        """What the study says.

        Raises:
            TrainingError: No trial succeeded.
        """
        done = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
        failed = self.n_done(study) - len(done)
        if not done:
            raise TrainingError(
                needed=f"a trial of {self.model!r} that succeeds",
                received=f"{failed} that failed",
                remedy="look at their messages, and narrow the space or fix settings",
            )
        defaults = self._defaults()
        default = next((trial.value for trial in done if trial.params == defaults), None)
        return Tuned(
            model=self.model,
            trials=self.n_done(study),
            failed=failed,
            metric=self.metric,
            default=default,
            best=cast("float", study.best_trial.value),
            settings={**self.fixed, **study.best_trial.params},
            seconds=round(sum(trial.user_attrs[_SECONDS] for trial in done), 3),
            fold=self.fold,
            seed=self.seed,
        )

    def _defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(registry.find("baselines", self.model)).parameters
        return {key: parameters[key].default for key in self.space}

    def _value(self, arguments: Mapping[str, Value]) -> float:
        """The metric's mean over validation users, kinds of negatives counted alike."""
        model = _factory.make(self.model, {**self.fixed, **arguments}, places=self.places)
        model.fit(self.data)
        asked = self.data.candidates.filter(pl.col("split") == "validation")
        scores = model.score(asked, self.data.interactions)
        per_user = metrics_from_scores(
            tables.conform(scores, tables.SCORES, name=self.model), model=self.model
        ).filter(pl.col(self.metric).is_not_nan())
        parts = per_user.sort("user_id").partition_by("negatives", maintain_order=False)
        # Summed by numpy in a fixed order: Polars' threads would change the last digit.
        return float(np.mean(sorted(part[self.metric].to_numpy().mean() for part in parts)))


def _refuse_impossible(metric: str) -> None:
    """Refuse a search without Optuna, or by a metric that does not exist."""
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtraError("optuna", "tune")
    if metric not in metric_names():
        raise UsageError(
            needed=f"a metric out of {', '.join(metric_names())}",
            received=repr(metric),
            remedy="choose one of them",
        )


def _refuse_unjudged(data: TrainingData, *, fold: int) -> None:
    """Refuse data that has nobody to judge a trial by."""
    if data.candidates.filter(pl.col("split") == "validation").is_empty():
        raise DataError(
            needed=f"validation users in fold {fold}",
            received="none",
            remedy="prepare with a larger data.validation_fraction",
        )


def _space(name: str, fixed: Mapping[str, Any]) -> Space:
    """What is searched of a model: its space without what the settings fix."""
    kind = registry.find("baselines", name)
    if not issubclass(kind, Tunable):
        raise UsageError(
            needed="a baseline that declares what may be searched",
            received=f"{name!r}, which has nothing to search",
            remedy="leave it out, or give its class a method 'space'",
        )
    return {key: values for key, values in kind.space().items() if key not in fixed}


def _unfinished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that have told nothing: under way, or left by a killed process."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.value is None and _PROBLEM not in trial.user_attrs
    ]


def _suggested(trial: optuna.Trial, key: str, values: object) -> Value:
    if isinstance(values, Range):
        if values.is_integer:
            return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
        return trial.suggest_float(key, values.low, values.high, log=values.log)
    choices: Sequence[Value] = values.values  # type: ignore[attr-defined]
    return cast("Value", trial.suggest_categorical(key, choices))


def _inputs(pipeline: Pipeline) -> dict[str, str]:
    """Hashes of the tables that a search reads."""
    stages = pipeline.run.stages
    return {name: manifest.require(stages, name).sha256 for name in _READ}


def _write(folder: Path, found: Sequence[Tuned]) -> None:
    """Add to what earlier searches wrote."""
    trials = folder / "trials.json"
    known = json.loads(trials.read_text(encoding="utf-8")) if trials.is_file() else {}
    known |= {tuned.model: asdict(tuned) for tuned in found}
    atomic.write_text(trials, json.dumps(known, indent=2) + "\n")
    best = {"baselines": {name: record["settings"] for name, record in sorted(known.items())}}
    heading = (
        "# Made by 'mllm-msr tune' on validation users; read it with --config. The number of\n"
        "# trials, and what the defaults reach, stand in trials.json.\n"
    )
    atomic.write_text(folder / "best.yaml", heading + yaml.safe_dump(best, sort_keys=False))
