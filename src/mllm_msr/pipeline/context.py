"""Context of the stages: the run folder, the display of progress, and fingerprints of stages."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from mllm_msr.config import tracing
from mllm_msr.config.settings import Settings
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.prompts.templates import template_hash
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder, Stage

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Display of the progress of a stage, such as the progress bars of the command line."""

    def __call__(
        self, name: str, total: int | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Start a task of `total` steps; the yielded function is called with finished steps.

        A total of None is a stage, which may contain tasks with a number of steps.
        """


@contextlib.contextmanager
def silent(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show nothing: the default `Progress`."""
    del name, total
    yield lambda _: None


@dataclass(frozen=True, slots=True)
class RunContext:
    """Run folder, and options for running its stages.

    Attributes:
        run: The run folder.
        progress: Shows progress.
        force: Whether to run stages again that are finished, with these or other settings.
        label: What messages about a variant of a run begin with; empty for the run itself.
    """

    run: RunFolder
    progress: Progress = silent
    force: bool = False
    label: str = ""

    def announces(self, fact: str) -> bool:
        """Return whether a fact about the run is to be logged: only once, and not by workers."""
        is_new = not self.run.is_worker and fact not in self.run.announced
        self.run.announced.add(fact)
        return is_new

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        settings: Mapping[str, object],
        *,
        inputs: Sequence[str] = (),
        prompt_templates: Sequence[str] = (),
        item_type: str | ItemType | None = None,
        model: str | None = None,
        shown: Mapping[str, str] | None = None,
        derived: bool = False,
    ) -> Iterator[Stage]:
        """Open a stage of the run folder, see `RunFolder.stage`; log its start and its end.

        Args:
            name: Name of the stage.
            settings: Settings that change the outputs, see `changed`.
            inputs: Outputs of earlier stages that it reads.
            prompt_templates: Prompt templates that it uses; their hashes are recorded.
            item_type: Word for an item in the prompts; recorded with the templates.
            model: Fingerprint of the model that it calls.
            shown: Hashes of everything else that it reads from the run, by name.
            derived: Whether it only presents its inputs, so that changed inputs redo it.
        """
        hashes = {
            template: template_hash(template, item_type=item_type or "item")
            for template in prompt_templates
        }
        started = time.perf_counter()
        with self.run.stage(
            name,
            settings={**settings, "item_type": str(item_type)} if prompt_templates else settings,
            inputs=inputs,
            templates=hashes,
            model=model,
            shown=shown,
            derived=derived,
            force=self.force,
        ) as stage:
            is_new = self.announces(name)
            if stage.finished or self.run.is_worker:
                if is_new:
                    logger.info("%s%s is already done", self.label, name)
                yield stage
                return
            logger.info("%s%s started", self.label, name)
            with tracing.step(f"stage {name}"), self.progress(name, None):
                yield stage
        seconds = format_seconds(time.perf_counter() - started)
        logger.info("%s%s done in %s", self.label, name, seconds)

    @contextlib.contextmanager
    def resumed(
        self, name: str, total: int, done: int, part: str = ""
    ) -> Iterator[Callable[[int], None]]:
        """Show a task of which an earlier process has finished some steps."""
        with self.progress(f"{name} {part}".rstrip(), total) as advance:
            advance(done)
            yield advance


def changed(
    section: BaseModel,
    prefix: str = "",
    *,
    include: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> dict[str, object]:
    """Return the settings of a section that differ from their defaults.

    Only these identify a finished stage, so that a new setting does not invalidate old runs.

    Args:
        section: A section of `Settings`.
        prefix: Prefix of each name ("infer.").
        include: Settings to return; all if None.
        exclude: Settings to leave out, because they do not change the outputs of the stage.
    """
    values = section.model_dump(
        mode="json",
        exclude_defaults=True,
        include=None if include is None else set(include),
        exclude=set(exclude),
    )
    return {f"{prefix}{name}": value for name, value in values.items()}


def prompt_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that the prompts of the ranker depend on, unless they are defaults."""
    return {
        **changed(settings.train, "train.", include=["max_text_tokens"]),
        **changed(settings.recommend, "recommend."),
    }


def mllm_inputs(settings: Settings) -> tuple[str, ...]:
    """Return the outputs of earlier stages that MLLM-MSR reads for training and scoring."""
    written = [layout.SUMMARIES] if settings.summarize.enabled else []
    written += [layout.PREFERENCES] if settings.recommend.reads_preference else []
    return (layout.INTERACTIONS, layout.ITEMS, layout.SPLITS, *written, layout.CANDIDATES)


def format_seconds(seconds: float) -> str:
    """Return a duration in words.

    >>> format_seconds(0.04), format_seconds(5.23), format_seconds(125), format_seconds(3720)
    ('0.0 s', '5.2 s', '2 min 5 s', '1 h 2 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
