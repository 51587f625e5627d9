"""Settings that identify finished stages, and the check that a command keeps those of other stages.

Every command saves its settings as those of the run. A setting of another stage that is finished
would be ignored, and later commands would take it for the value that the stage was run with.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mllm_msr.config.checks import image_readers
from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.errors import MissingExtraError, StaleStageError, UnknownNameError, UsageError
from mllm_msr.pipeline.alignment import align_settings, aligned
from mllm_msr.pipeline.backends import open_backend
from mllm_msr.pipeline.context import RunContext, changed, prompt_settings
from mllm_msr.pipeline.recommenders import Recommenders
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.ranker.training.fingerprint import training_fingerprint
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.manifest import Conditions, Entry

# Settings that do not identify a finished stage, by section: they do not change its outputs, or the
# outputs depend on them through an input or the model's fingerprint, which are recorded as well.
# All others identify it, so that a stage is never skipped with other settings. For `train` see
# `ranker/training/fingerprint.py`.
NOT_RECORDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "images": ("allowed_hosts", "concurrency"),
        "summarize": ("model",),
        "infer": ("model",),
        "score": ("zero_shot", "baselines", "max_error_rate", "model"),
    }
)
# Settings of the section `retrieve` that fitted weights of lists do not depend on.
_NOT_FITTED: Final = ("order", "budget", "adaptive", "diversity", "prefix_cache_bytes")

Values = dict[str, object]


def prepare_settings(settings: Settings) -> Values:
    """Return the settings that identify the prepared data."""
    return {
        "dataset": settings.dataset,
        **changed(settings.data),
        **changed(settings.images, "images.", exclude=NOT_RECORDED["images"]),
        **changed(settings.infer, "infer.", include=["block_size"]),
    }


def summarize_settings(settings: Settings) -> Values:
    """Return the settings that identify the summaries."""
    values = changed(settings.summarize, exclude=NOT_RECORDED["summarize"])
    if settings.summarize.scope == "read":
        values |= changed(settings.infer, "infer.", include=["block_size", "max_items"])
    return values


def infer_settings(settings: Settings) -> Values:
    """Return the settings that identify the preferences."""
    values = changed(settings.infer, exclude=NOT_RECORDED["infer"])
    if settings.data.train_targets == "last":
        values["every_block"] = False
    return values


def train_settings(settings: Settings, recommenders: Recommenders) -> Values:
    """Return the settings that identify the fine-tuned weights."""
    return {
        **training_fingerprint(settings.train),
        **changed(settings.recommend, "recommend."),
        **recommenders.vector_settings(),
    }


def score_settings(settings: Settings, recommenders: Recommenders, name: str) -> Values:
    """Return the settings that identify the scores of a recommender."""
    # Only one of these two applies to a recommender.
    unused = "full_users" if recommenders.requires_llm(name) else "full_users_mllm"
    own = changed(settings.score, exclude=[*NOT_RECORDED["score"], unused])
    return {**recommenders.settings_of(name), **own}


def _distill_settings(settings: Settings, recommenders: Recommenders) -> Values:
    student = recommenders.settings_of("student")
    student.pop("student.distillation", None)  # of the student that learns from these scores
    own = changed(settings.distill, "distill.", exclude=["enabled"])
    return {**student, **prompt_settings(settings), **own}


def _list_settings(settings: Settings, recommenders: Recommenders) -> Values:
    values = {
        **prompt_settings(settings),
        **changed(settings.retrieve, "retrieve.", exclude=_NOT_FITTED),
    }
    for name in candidate_generators(settings).values():
        if name is not None:
            values |= recommenders.settings_of(name)
    return values


# By stage, in their order. The last argument is the part of the stage: a fold, or a recommender.
_SETTINGS: Final[Mapping[str, Callable[[Settings, Recommenders, str], Values]]] = MappingProxyType(
    {
        "prepare": lambda settings, _, __: prepare_settings(settings),
        "align": lambda settings, _, __: {
            **align_settings(settings),
            "align.enabled": settings.align.enabled,
        },
        "summarize": lambda settings, _, __: summarize_settings(settings),
        "infer": lambda settings, _, __: infer_settings(settings),
        "train": lambda settings, recommenders, _: train_settings(settings, recommenders),
        "distill": lambda settings, recommenders, _: _distill_settings(settings, recommenders),
        "score": score_settings,
        "evaluate": lambda settings, _, __: changed(settings.evaluate),
        "report": lambda settings, _, __: changed(settings.report),
        layout.FIT_LISTS: lambda settings, recommenders, _: _list_settings(settings, recommenders),
    }
)


def require_prepared_data(context: RunContext, settings: Settings) -> None:
    """Check that the settings are those with which the run's data were prepared, if they are.

    Raises:
        StaleStageError: They differ, or a model would read images that nobody missed when the data
            were prepared; the message names them.
    """
    if entry := context.run.stages.get("prepare"):
        _require_equal(context, "prepare", entry, entry["settings"], prepare_settings(settings))
        require_images(context, settings)


def require_images(context: RunContext, settings: Settings) -> None:
    """Check that prepared items have images if a model reads them only now.

    The stage prepare reports missing images only if a model reads them.

    Args:
        context: A run with prepared data.
        settings: The settings of the current call.

    Raises:
        StaleStageError: No item has an image; the message names the settings that need them.
    """
    readers, tables = image_readers(settings), RunTables(context.run)
    if not readers or context.run.stages["prepare"]["counts"].get("images_stored"):
        return
    report = tables.data_report()
    if report is None or report.get("reads_images", True) or tables.items()["image"].count():
        return
    raise StaleStageError(
        f"No item of the run has an image, which {' and '.join(readers)} would read. The stage "
        "'prepare' did not report this, because no model read images then. Undo the change, or "
        "provide the images ('mllm-msr check' with the settings of the run shows what is found) "
        "and repeat 'mllm-msr prepare --force' with the change."
    )


def require_finished_settings(context: RunContext, settings: Settings) -> None:
    """Check that settings for using a run do not contradict the stages whose results are used.

    Args:
        context: The run.
        settings: The saved settings of the run, with changes.

    Raises:
        StaleStageError: A setting of a finished stage differs, and would be ignored.
    """
    saved = _saved_settings(context)
    if saved is None or saved.model_dump() == settings.model_dump():
        return
    require_prepared_data(context, settings)
    # The results of a stage that is switched off are not read.
    stages = ("align", "summarize", "infer", "train")
    read = [stage for stage in stages if getattr(settings, stage).enabled]
    for name, entry in context.run.stages.items():
        kind, _, part = name.partition("/")
        if kind in read:
            old, new = (_values(context, each, kind, part, entry) for each in (saved, settings))
            _require_equal(context, name, entry, old, new)


def require_kept_settings(
    context: RunContext, settings: Settings, stage: str, *, redone: Collection[str] = ()
) -> None:
    """Check that a stage does not change the saved settings of other stages that are finished.

    With force, stages after it may change: they have to be redone in any case.

    Args:
        context: The run.
        settings: Settings of the stage, which are saved after it.
        stage: Name of the stage, which checks its own settings.
        redone: Other stages that the same command redoes, as kind ("report") or name
            ("score/gru4rec").

    Raises:
        StaleStageError: A setting of another finished stage differs; the message names it.
    """
    saved = _saved_settings(context)
    if saved is None or saved.model_dump() == settings.model_dump():
        return
    order = [*_SETTINGS]
    after = order[order.index(stage) + 1 :] if context.force else []
    for name, entry in context.run.stages.items():
        kind, _, part = name.partition("/")
        if kind not in _SETTINGS or {kind, name} & {stage, *redone, *after}:
            continue
        # The scores may be of a plugin that is not installed here.
        with contextlib.suppress(UnknownNameError, MissingExtraError):
            old, new = (_values(context, each, kind, part, entry) for each in (saved, settings))
            model = _fingerprint(context, saved, settings, kind, entry)
            _require_equal(context, name, entry, old, new, model=model)


def skipped_stages(context: RunContext, settings: Settings) -> list[str]:
    """Return the finished stages that a run with these settings would not run again.

    These are neither the stages that were finished with other settings, nor those after them.
    """
    stages, saved = context.run.stages, _saved_settings(context)
    if saved is None or saved.model_dump() == settings.model_dump():
        return [*stages]
    order, skipped = [*_SETTINGS], list[str]()
    last = len(order)  # index of the last stage of which some parts may be skipped
    known = [name for name in stages if name.partition("/")[0] in order]
    for name in sorted(known, key=lambda name: order.index(name.partition("/")[0])):
        kind, _, part = name.partition("/")
        if order.index(kind) > last:
            break
        entry = stages[name]
        before, now = (_own_model(each, kind) or each.model for each in (saved, settings))
        is_same = entry["model"] is None or before == now
        # The scores may be of a plugin that is not installed here.
        with contextlib.suppress(UnknownNameError, MissingExtraError):
            old, new = (_values(context, each, kind, part, entry) for each in (saved, settings))
            is_same = is_same and old == new
        if is_same:
            skipped.append(name)
        else:
            last = order.index(kind)
    return skipped


def _saved_settings(context: RunContext) -> Settings | None:
    """Return the saved settings of a run; None if there are none, or of another version."""
    path = context.run.folder / layout.CONFIG
    return _settings_in(path, path.read_bytes()) if path.is_file() else None


@functools.lru_cache(maxsize=4)
def _settings_in(path: Path, content: bytes) -> Settings | None:
    """Return the settings in a file; with other `content`, it is read again.

    Every stage of a run compares its settings with them.
    """
    del content
    try:
        return load_settings(None, (), file=path, environment={})
    except UsageError:
        return None


def _values(context: RunContext, settings: Settings, kind: str, part: str, entry: Entry) -> Values:
    recommenders = Recommenders(context, settings)
    values = _SETTINGS[kind](settings, recommenders, part)
    if entry["templates"]:
        values["item_type"] = str(recommenders.item_type)
    return values


def _fingerprint(
    context: RunContext, saved: Settings, settings: Settings, kind: str, entry: Entry
) -> str | None:
    """Return the fingerprint of the model that a stage would call, if it calls one."""
    old, new = (_own_model(each, kind) or each.model for each in (saved, settings))
    if entry["model"] is None or old.model_dump() == new.model_dump():
        return entry["model"]  # without opening it
    if kind != "align" and _own_model(settings, kind) is None:
        new = aligned(settings, context.run)
    with contextlib.closing(open_backend(new)) as backend:
        return backend.fingerprint


def _own_model(settings: Settings, kind: str) -> ModelSettings | None:
    """Return the model in the settings of a stage; None if it calls the run's."""
    if kind in {"align", "train"}:
        return None
    own = {"summarize": settings.summarize.model, "infer": settings.infer.model}
    return own.get(kind, settings.score.model)


def _require_equal(
    context: RunContext,
    name: str,
    entry: Entry,
    old: Values,
    new: Values,
    *,
    model: str | None = None,
) -> None:
    was = Entry(**{**entry, "settings": old})
    # Compare what the manifest can store: JSON turns tuples into lists.
    now = Conditions(
        settings=json.loads(json.dumps(new)),
        inputs=entry["inputs"],
        templates=entry["templates"],
        model=entry["model"] if model is None else model,
    )
    manifest.require_unchanged(context.run.folder, name, was, now)
