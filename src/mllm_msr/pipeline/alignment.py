"""Stage "align" (optional): train the projector of the run's model on the run's items.

The stages after it use the result: `aligned` sets it as `model.projector`, so that the fingerprint
of the model, and with it every response in the cache, belongs to this projector.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.errors import CapabilityError, SettingsError
from mllm_msr.models.processor_options import ProcessorOptions
from mllm_msr.pipeline.backends import backend_class, open_backend
from mllm_msr.pipeline.context import RunContext, changed
from mllm_msr.pipeline.run_tables import RunTables
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.types import Item

_TEMPLATES = ("image_description",)


def align(context: RunContext, settings: Settings) -> None:
    """Train the projector on images and texts of the items if `align.enabled` is set.

    Raises:
        SettingsError: The recommender is scored with another model.
        CapabilityError: The backend has no weights in this process.
    """
    if not settings.align.enabled:
        return
    if settings.score.model is not None:
        problem = (
            "align.enabled=true cannot be combined with score.model, which would read images with "
            "another projector than the fine-tuned model. Remove one of them."
        )
        raise SettingsError([problem])
    tables = RunTables(context.run)
    with contextlib.closing(open_backend(settings.model)) as backend:
        fingerprint = backend.fingerprint
    with context.stage(
        "align",
        align_settings(settings),
        inputs=[layout.ITEMS],
        prompt_templates=_TEMPLATES,
        item_type=tables.item_type(settings),
        model=fingerprint,
    ) as stage:
        if stage.finished:
            return
        counts = _align(context, settings, tables)
        stage.register(layout.PROJECTOR)
        stage.count(**counts)


def align_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that identify the projector."""
    return {
        **settings.align.fingerprint(),
        **changed(settings.summarize, "summarize.", include=["image_words"]),
    }


def aligned(settings: Settings, run: RunFolder) -> ModelSettings:
    """Return the run's model, with the projector of the stage "align" if it is enabled.

    Raises:
        RunFolderError: The stage "align" is enabled and has not been run.
        DamagedFileError: The projector is not what the stage has written.
    """
    if not settings.align.enabled:
        return settings.model
    projector = run.verified(layout.PROJECTOR)
    return settings.model.model_copy(update={"projector": projector})


def _align(context: RunContext, settings: Settings, tables: RunTables) -> dict[str, float]:
    """Train, and return the counts of the stage."""
    # These import PyTorch, which takes seconds.
    from mllm_msr.ranker.alignment.examples import alignment_examples  # noqa: PLC0415
    from mllm_msr.ranker.alignment.trainer import align as train  # noqa: PLC0415

    arguments = settings.model.plugin_kwargs()
    checkpoint = backend_class(settings.model).trainable_checkpoint(**arguments)
    if checkpoint is None:
        raise CapabilityError(
            f"The backend {settings.model.backend!r} has no projector to train. Set "
            "model.backend=smollm, or model.backend=huggingface with a checkpoint of the LLaVA "
            "family, or align.enabled=false."
        )
    examples = alignment_examples(
        map(Item.from_row, tables.items().iter_rows(named=True)),
        item_type=tables.item_type(settings),
        words=settings.summarize.image_words,
    )
    projector: Any = arguments.get("projector")
    summary = train(
        examples,
        checkpoint=checkpoint,
        folder=context.run.inside(layout.ALIGNMENT),
        settings=settings.align,
        revision=arguments.get("revision"),
        projector=None if projector is None else Path(projector),
        options=ProcessorOptions.from_arguments(arguments),
        resume=not context.force,
        show_images=functools.partial(context.resumed, "encode images"),
        show=functools.partial(context.resumed, "align"),
    )
    return asdict(summary)
