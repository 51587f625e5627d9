"""The recommenders of a run by name: MLLM-MSR, zero-shot and every baseline, fitted on a fold.

The stages "train" and "score", `compare` and `recommend` get their models from here. Fitted
baselines are stored in the cache of the run, so that ensembles reuse members that are already
fitted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mllm_msr import __version__, registry
from mllm_msr.baselines import _factory
from mllm_msr.baselines._factory import Folders, baseline_class
from mllm_msr.config.settings import Settings
from mllm_msr.config.trust import has_endpoint
from mllm_msr.errors import MissingExtraError, SettingsError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.backends import open_backend, open_cached
from mllm_msr.pipeline.context import RunContext, mllm_inputs, prompt_settings
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.ranker.examples import template_name
from mllm_msr.ranker.prompt_scorer import ShowsScoring
from mllm_msr.ranker.recommender import MLLM_MSR, VARIANTS, ZERO_SHOT, MllmRecommender, Variant
from mllm_msr.ranker.training.display import ShowsTraining
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.artifact_cache import ArtifactCache, digest

_BASELINE_INPUTS: Final = (layout.INTERACTIONS, layout.ITEMS, layout.SPLITS, layout.CANDIDATES)


@dataclass(frozen=True, slots=True)
class ScoreConditions:
    """Conditions that the scores of a recommender depend on, for the manifest.

    Attributes:
        settings: Settings that differ from their defaults.
        inputs: Outputs of earlier stages.
        prompt_templates: Prompt templates.
        model: Fingerprint of the model; None for recommenders that call none.
    """

    settings: Mapping[str, object]
    inputs: tuple[str, ...]
    prompt_templates: tuple[str, ...] = ()
    model: str | None = None


def ranker_name(settings: Settings) -> str:
    """Return the name of a run's MLLM recommender: fine-tuned if it trains, else zero-shot."""
    return MLLM_MSR if settings.train.enabled else ZERO_SHOT


def label_of(name: str) -> str:
    """Return the label of a recommender in tables; its name if it is unknown or not installed."""
    found = _described(name)
    return name if found is None else found.label


def remark_of(name: str) -> str:
    """Return the note that tables show below the label of a recommender; may be empty."""
    found = _described(name)
    return "" if found is None else found.remark


def _described(name: str) -> Variant | type[Recommender] | None:
    """Return what has the label and the remark of a recommender, None if there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    if name not in registry.names("baselines"):
        return None
    try:
        return baseline_class(name)
    except MissingExtraError:  # A run can be evaluated without the extras of its baselines.
        return None


class Recommenders:
    """Factory of the recommenders of a run.

    Args:
        context: The run folder and the display of progress.
        settings: The run's settings.

    Attributes:
        tables: The run's tables.
        is_worker: Whether this process is a rank other than 0 of a distributed training.
    """

    def __init__(self, context: RunContext, settings: Settings) -> None:
        self._context = context
        self._run = context.run
        self._settings = settings
        self.tables = RunTables(context.run)
        self.is_worker = context.run.is_worker
        self._refitted: set[tuple[str, str]] = set()

    def names(self) -> list[str]:
        """Return the names of all recommenders to score, as set in the settings."""
        return [*self.mllm_names(), *self._settings.score.baselines]

    def mllm_names(self) -> list[str]:
        """Return the names of the MLLM recommenders to score, as set in the settings."""
        zero_shot = [ZERO_SHOT] if self._settings.score.zero_shot else []
        return [*zero_shot, *([MLLM_MSR] if self._settings.train.enabled else [])]

    @property
    def item_type(self) -> ItemType:
        """Return the words for an item in the prompts, and the templates of the prompts."""
        return self.tables.item_type(self._settings)

    def requires_llm(self, name: str) -> bool:
        """Return whether a recommender, or a member of it, calls a language model."""
        if name in VARIANTS or baseline_class(name).requires_llm:
            return True
        return any(self.requires_llm(member) for member in self._members(name))

    def conditions(self, name: str) -> ScoreConditions:
        """Return the conditions that the scores of a recommender depend on."""
        if name in VARIANTS:
            return self._mllm_conditions(name)
        found = ScoreConditions(
            self.settings_of(name), self.baseline_inputs(name, self.tables.folds())
        )
        for own in map(self.conditions, self.members(name)):
            found = replace(
                found,
                inputs=tuple(dict.fromkeys([*found.inputs, *own.inputs])),
                prompt_templates=(*found.prompt_templates, *own.prompt_templates),
                model=found.model or own.model,
            )
        return found

    def settings_of(self, name: str) -> dict[str, object]:
        """Return the settings that the scores of a recommender depend on."""
        if name in VARIANTS:
            return prompt_settings(self._settings)
        baselines = self._settings.baselines
        settings: dict[str, object] = {
            f"{name}.{key}": value for key, value in baselines.arguments(name).items()
        }
        if members := self.members(name):
            settings[f"{name}.members"] = members
        if baselines.content != "all":
            settings["content"] = baselines.content
        for member in members:
            settings |= self.settings_of(member)
        return settings

    def baseline_inputs(self, name: str, folds: Sequence[int]) -> tuple[str, ...]:
        """Return the outputs of earlier stages that a baseline, or a member of it, learns from.

        Those of a language model are the same in all folds, except for the scores of a teacher.
        """
        content = self._settings.baselines.content
        described = [layout.SUMMARIES] if content == "image_summary" else []
        return (*_BASELINE_INPUTS, *described, *self._read_tables(name, folds))

    def training_data(self, name: str, fold: int) -> TrainingData:
        """Return the training data of a recommender in a fold, without targets of test users."""
        teacher = f"{layout.TEACHER}/{fold}"
        if name in VARIANTS:
            data = self.tables.training_data(fold)
            read = list(mllm_inputs(self._settings))
        else:
            data = self.tables.training_data(fold, content=self._settings.baselines.content)
            read = self._read_tables(name, [fold])
        return replace(
            data,
            summaries=self.tables.summaries() if layout.SUMMARIES in read else None,
            preferences=self.tables.preferences() if layout.PREFERENCES in read else None,
            teacher=self._run.read(teacher) if teacher in read else None,
        )

    def _read_tables(self, name: str, folds: Sequence[int]) -> list[str]:
        """Return the outputs of a language model that a baseline, or a member of it, reads."""
        names = [name, *self.members(name)]
        if not any(baseline_class(each).reads_mllm for each in names if each not in VARIANTS):
            return []
        texts = [layout.SUMMARIES] if self._settings.baselines.content == "all" else []
        written = [each for each in (*texts, layout.PREFERENCES) if self._run.has(each)]
        scored = folds if self._settings.distill.enabled else []
        return [*written, *(f"{layout.TEACHER}/{fold}" for fold in scored)]

    def fitted(self, name: str, fold: int) -> Recommender:
        """Return a recommender that is fitted on a fold; the caller closes it.

        MLLM-MSR uses the weights of the stage "train". Baselines are loaded from the cache of the
        run, or fitted and stored there.

        Raises:
            RunFolderError: A required stage has not been run.
        """
        data = self.training_data(name, fold)
        if name in VARIANTS:
            weights = self._run.verified(self.weights(fold)) if VARIANTS[name].fine_tuned else None
            return self.mllm(name, fold).attach(data, weights=weights)
        if members := self.members(name):
            return self._ensemble(name, members, fold, data)
        arguments = self._settings.baselines.arguments(name)
        if has_endpoint(str(arguments.get("backend", "demo"))):
            # Learns nothing, and `load` does not accept an endpoint from a file.
            model = self.baseline(name, fold).fit(data)
        else:
            model = self._cached_fit(name, fold, data)
        if isinstance(model, ShowsScoring):
            model.show_scoring(functools.partial(self._context.progress, name))
        return model

    def _cached_fit(
        self, name: str, fold: int, data: TrainingData, *, hidden: str = "", **conditions: object
    ) -> Recommender:
        """Return a fitted baseline from the cache of the run, or fit and store it there.

        Args:
            name: Name of the baseline.
            fold: Fold of the training data.
            data: Training data.
            hidden: Name for what is hidden in the training data of the fold; empty for nothing.
            conditions: What `data` depends on besides the fold, see `artifact_cache.digest`.
        """
        part = f"{fold}-{hidden}" if hidden else f"{fold}"
        # With force, once: a member of an ensemble is not fitted again after it has scored, and a
        # worker does not fit again what rank 0 has fitted.
        force = self._context.force and not self.is_worker
        refit = force and (name, part) not in self._refitted
        self._refitted.add((name, part))
        tables = self._read_tables(name, [fold] if data.teacher is not None else [])
        read = {table: manifest.require(self._run.stages, table).sha256 for table in tables}
        key = digest(
            name=name,
            arguments=self._settings.baselines.arguments(name),
            version=__version__,
            fold=part,
            data=self._data_digest(),
            **read,
            **conditions,
        )
        states = f"{part}-{digest(**read)[:8]}" if read else part
        return self._cache.recommender(
            f"{name}-{part}",
            key,
            baseline_class(name),
            lambda: self.baseline(name, states).fit(data),
            refit=refit,
        )

    def baseline(self, name: str, part: int | str) -> Recommender:
        """Return an unfitted baseline, whose training states are stored in the run's cache.

        Args:
            name: Name of the baseline.
            part: Part of the run's data that it will be fitted on.
        """
        folders = Folders(
            content=self._run.inside(layout.CONTENT_CACHE),
            states=self._run.inside(f"{layout.BASELINE_STATES}/{self._data_digest()[:12]}-{part}"),
        )
        made = _factory.make(name, self._settings.baselines.arguments(name), folders=folders)
        if isinstance(made, ShowsTraining):
            unit = "steps" if made.requires_llm else "epochs"
            made.training_progress = functools.partial(self._context.resumed, f"{name} {unit}")
        return made

    def mllm(self, name: str, fold: int, *, is_worker: bool = False) -> MllmRecommender:
        """Return unfitted MLLM-MSR or zero-shot.

        Args:
            name: A name of `ranker.recommender.VARIANTS`.
            fold: Fold whose training folder contains weights and states.
            is_worker: Whether this process is a rank other than 0 of a distributed training.
        """
        settings = self._settings
        trained = aligned(settings, self._run)
        model = settings.score.model or trained
        return MllmRecommender(
            backend=model.backend,
            options=model.plugin_kwargs(),
            training=settings.train if VARIANTS[name].fine_tuned else None,
            item_type=self.item_type,
            prompt=settings.recommend,
            max_text_tokens=settings.train.max_text_tokens,
            max_error_rate=settings.score.max_error_rate,
            trains=(trained.backend, trained.plugin_kwargs()),
            output=self._run.folder / self._training_folder(fold),
            open_backend=lambda weights: open_cached(
                model, self._run.cache, settings.executor, weights, settings.train.weight_format
            ),
            fit_baseline=lambda baseline, data: self._fit_without_targets(baseline, fold, data),
            # With force, the folder may contain states of other settings.
            resume=not self._context.force,
            is_worker=is_worker,
            scoring_progress=lambda total: self._context.progress(name, total),
            training_progress=functools.partial(self._context.resumed, f"train {fold}"),
        )

    def _fit_without_targets(self, name: str, fold: int, data: TrainingData) -> Recommender:
        """Return a baseline that is fitted on the interactions of `data`."""
        content = self.tables.training_data(fold, content=self._settings.baselines.content)
        data = replace(data, items=content.items)
        # The rows depend on the ranker's targets, and states of other rows must not be resumed.
        hidden = f"collaborative-{digest(rows=data.interactions)[:8]}"
        return self._cached_fit(name, fold, data, hidden=hidden, interactions=data.interactions)

    def members(self, name: str) -> list[str]:
        """Return the members of an ensemble; an empty list for other recommenders.

        Raises:
            SettingsError: The settings name a member that this run does not score.
        """
        members = self._members(name)
        named = members if self._settings.baselines.arguments(name).get("members") else []
        missing = [each for each in named if each in VARIANTS and each not in self.mllm_names()]
        if missing:
            problem = (
                f"baselines.{name}.members contains {', '.join(missing)}, which this run does not "
                "score. Set train.enabled=true or score.zero_shot=true, or remove it."
            )
            raise SettingsError([problem])
        return members

    def _members(self, name: str) -> list[str]:
        arguments = self._settings.baselines.arguments(name)
        members = list(_factory.member_names(name, arguments))
        is_default = bool(members) and not arguments.get("members")
        scored = is_default and self._run.has(f"{layout.SCORES}/{MLLM_MSR}")
        return [*([MLLM_MSR] if scored else []), *members]

    def require_valid(self, names: Iterable[str]) -> None:
        """Check the arguments of baselines and of their members before any work.

        Raises:
            SettingsError: An argument is out of range.
        """
        for name in names:
            if name in VARIANTS:
                continue
            if members := self.members(name):
                self.require_valid(members)
            else:
                _factory.make(name, self._settings.baselines.arguments(name))

    def vector_settings(self) -> dict[str, object]:
        """Return the settings of the baseline whose vectors the prompts contain, if they do."""
        recommend = self._settings.recommend
        return self.settings_of(recommend.collaborative) if recommend.reads_vectors else {}

    def weights(self, fold: int) -> str:
        """Return the path, inside the run folder, of a fold's fine-tuned weights."""
        folder = layout.WEIGHTS[self._settings.train.weight_format]
        return f"{self._training_folder(fold)}{folder}"

    def _training_folder(self, fold: int) -> str:
        # A run with one fold trains in the run folder itself, so that its adapter is `adapter/`.
        return "" if len(self.tables.folds()) == 1 else f"{layout.FOLDS}/{fold}/"

    def _mllm_conditions(self, name: str) -> ScoreConditions:
        settings = self._settings
        folds = self.tables.folds() if VARIANTS[name].fine_tuned else []
        model = settings.score.model or aligned(settings, self._run)
        with contextlib.closing(open_backend(model)) as backend:
            fingerprint = backend.fingerprint
        inputs = (*mllm_inputs(settings), *map(self.weights, folds))
        template = template_name(settings.recommend)
        return ScoreConditions(self.settings_of(name), inputs, (template,), fingerprint)

    def _ensemble(
        self, name: str, members: Sequence[str], fold: int, data: TrainingData
    ) -> Recommender:
        arguments = self._settings.baselines.arguments(name)
        fitted = {member: self.fitted(member, fold) for member in members}

        def fit_copy(member: str, hidden: TrainingData) -> Recommender:
            return self._cached_fit(
                member, fold, hidden, hidden=name, interactions=hidden.interactions
            )

        given = {**arguments, "members": fitted, "fit_copy": fit_copy}
        return _factory.make(name, given).fit(data)

    @property
    def _cache(self) -> ArtifactCache:
        return ArtifactCache(self._run.inside(layout.FITTED_BASELINES))

    def _data_digest(self) -> str:
        """Return a hash of all tables that baselines read in this run."""
        content = self._settings.baselines.content
        read = [*_BASELINE_INPUTS, *([layout.SUMMARIES] if content == "image_summary" else [])]
        hashes = [manifest.require(self._run.stages, name).sha256 for name in read]
        return hashlib.sha256(" ".join([content, *hashes]).encode()).hexdigest()
