"""A run folder under its settings: what the stages of `pipeline/pipeline.py` share.

It opens backends behind the response cache, knows where adapters lie, and hands out tables with
paths that can be opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol, cast

import polars as pl

from mllm_msr import demo_model, registry
from mllm_msr.baselines import _factory
from mllm_msr.baselines._factory import Places
from mllm_msr.config.settings import ModelSettings, Settings
from mllm_msr.data.splits import visible_interactions
from mllm_msr.errors import CapabilityError, RunFolderError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.inference.ray.backend import RayBackend
from mllm_msr.interfaces import Backend, Recommender, TrainingData
from mllm_msr.prompts.templates import template_hash
from mllm_msr.ranker.examples import Example, build_examples
from mllm_msr.storage import layout, manifest
from mllm_msr.storage.run_folder import RunFolder, Stage

# Argument of backends that can keep what they have read of images.
_PREFIX_CACHE: Final = "prefix_cache_bytes"

_RIVALS_READ: Final = ("interactions", "items", "splits", "candidates")

# Batches for each worker of an executor that are looked up in the response cache together.
_CHUNK_BATCHES: Final = 16


class Progress(Protocol):
    """Shows how far a stage is; the command line draws bars, a library user may draw nothing."""

    def __call__(
        self, name: str, total: int | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a task of `total` steps; the yielded function reports finished ones."""


@contextlib.contextmanager
def silent(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A `Progress` that shows nothing."""
    del name, total
    yield lambda _: None


class Workspace:
    """What a stage needs beside its own work.

    Attributes:
        run: The run folder.
        settings: The run's settings.
        force: Whether finished work of other settings is redone.
        progress: How progress is shown.
    """

    def __init__(
        self, run: RunFolder, settings: Settings, *, force: bool, progress: Progress
    ) -> None:
        self.run = run
        self.settings = settings
        self.force = force
        self.progress = progress

    def stage(
        self,
        name: str,
        settings: Mapping[str, object],
        *,
        inputs: Sequence[str] = (),
        prompt_templates: Sequence[str] = (),
        model: str | None = None,
    ) -> AbstractContextManager[Stage]:
        """`RunFolder.stage` with the prompts' hashes and, where prompts are asked, the item_type."""
        hashes = {name: template_hash(name, item_type=self.item_type) for name in prompt_templates}
        return self.run.stage(
            name,
            settings={**settings, "item_type": self.item_type} if prompt_templates else settings,
            inputs=inputs,
            templates=hashes,
            model=model,
            force=self.force,
        )

    @property
    def item_type(self) -> str:
        """What an item is called in prompts: the setting, or the data set's own word."""
        if self.settings.item_type is not None:
            return self.settings.item_type
        about = json.loads(self.run.verified("dataset.json").read_text(encoding="utf-8"))
        return str(about["item_type"])

    @contextlib.contextmanager
    def backend(
        self, model: ModelSettings | None = None, *, adapter: Path | None = None
    ) -> Iterator[CachedBackend]:
        """A backend behind the run's response cache; closed at the end.

        Args:
            model: Settings of another model than the run's.
            adapter: What fine-tuning made: a LoRA adapter, or a folder of full weights.
        """
        executor = self.settings.executor
        if executor.name == "local":
            with contextlib.closing(self.bare_backend(model, adapter=adapter)) as backend:
                yield CachedBackend(backend, self.run.cache)
            return
        chosen, arguments = self._chosen(model, adapter)
        place = executor.model_dump(exclude={"name"})
        with contextlib.closing(RayBackend(chosen, arguments, **place)) as spread:
            # Enough at a time that no worker waits while the last batches of others end.
            chunk = max(4096, _CHUNK_BATCHES * executor.workers * executor.batch)
            yield CachedBackend(spread, self.run.cache, chunk_size=chunk)

    def bare_backend(
        self,
        model: ModelSettings | None = None,
        *,
        adapter: Path | None = None,
        **wished: Any,
    ) -> Backend:
        """A backend in this process and without the response cache, for the caller to close.

        Args:
            model: Which one; the run's where empty.
            adapter: What fine-tuning made.
            **wished: Further arguments, for a backend that takes them and where no setting does.
        """
        name, arguments = self._chosen(model, adapter)
        kind = registry.find("backends", name)
        taken = inspect.signature(kind).parameters
        known = {argument: value for argument, value in wished.items() if argument in taken}
        return cast("Backend", kind(**{**known, **arguments}))

    @property
    def can_keep_images(self) -> bool:
        """Whether the run's backend takes `prefix_cache_bytes`."""
        kind = registry.find("backends", self.settings.model.backend)
        return _PREFIX_CACHE in inspect.signature(kind).parameters

    def _chosen(
        self, model: ModelSettings | None, adapter: Path | None
    ) -> tuple[str, dict[str, Any]]:
        """A backend's name and its constructor's arguments."""
        chosen = model or self.settings.model
        arguments = chosen.plugin_kwargs()
        if adapter is not None and self.settings.train.method == "lora":
            arguments["adapter"] = adapter
        elif adapter is not None:
            arguments["weights" if chosen.backend == "demo" else "checkpoint"] = str(adapter)
        return chosen.backend, arguments

    def checkpoint(self) -> str:
        """The checkpoint that fine-tuning starts from.

        Raises:
            CapabilityError: The run's backend has no weights here.
        """
        model = self.settings.model
        if model.backend == "demo":
            return str(model.plugin_kwargs().get("weights") or demo_model.weights_folder())
        if "checkpoint" in model.plugin_kwargs():
            return str(model.plugin_kwargs()["checkpoint"])
        raise CapabilityError(
            needed="a backend with a checkpoint to fine-tune",
            received=f"model.backend={model.backend}",
            remedy="use model.backend=huggingface with model.checkpoint, or train.enabled=false",
        )

    def training_folder(self, fold: int) -> str:
        """Name, inside the run folder, of where a fold is trained.

        A run of a single fold trains in the run folder itself, so that its adapter is `adapter/`.
        """
        return "" if len(self.folds()) == 1 else f"folds/{fold}/"

    def adapter(self, fold: int) -> str:
        """Name, inside the run folder, of what fine-tuning made in a fold."""
        made = {"lora": "adapter", "full": "model"}[self.settings.train.method]
        return f"{self.training_folder(fold)}{made}"

    def folds(self) -> list[int]:
        """The folds that were prepared."""
        folds = self.run.scan("candidates").select(pl.col("fold").unique().sort()).collect()
        return folds["fold"].to_list()

    def candidates(self, fold: int) -> pl.DataFrame:
        """One fold's rows of the candidates."""
        return self.run.scan("candidates").filter(pl.col("fold") == fold).collect()

    def items(self) -> pl.DataFrame:
        """The items with image paths that can be opened from here."""
        root = str(self.run.folder)
        image = pl.col("image")
        absolute = pl.when(image.str.starts_with("/")).then(image).otherwise(root + "/" + image)
        return self.run.read("items").with_columns(image=absolute)

    def training_data(self, fold: int) -> TrainingData:
        """Everything that a baseline may learn from in one fold; no target of a test user.

        What it may read of items follows `baselines.content`.
        """
        visible, train_users = visible_interactions(
            self.run.read("interactions"), self.run.read("splits"), fold
        )
        return TrainingData(
            interactions=visible,
            items=self._baselines_items(),
            candidates=self.candidates(fold).filter(pl.col("split") != "test"),
            train_users=train_users,
        )

    def baseline(self, name: str, fold: int) -> Recommender:
        """A baseline under the run's settings, to be fitted on a fold's training data.

        It keeps content vectors and training states in the run folder's cache.
        """
        return _factory.make(
            name, self.settings.baselines.arguments(name), places=self.baselines_places(fold)
        )

    def baselines_places(self, fold: int) -> Places:
        """Where baselines keep what they make; states of other data lie elsewhere."""
        stages, content = self.run.stages, self.settings.baselines.content
        read = [*_RIVALS_READ, *(["summaries"] if content == "image_summary" else [])]
        made = [manifest.require(stages, name).sha256 for name in read]
        digest = hashlib.sha256(" ".join([content, *made]).encode()).hexdigest()[:12]
        return Places(
            content=self.run.inside(layout.CONTENT_CACHE),
            states=self.run.inside(f"{layout.BASELINE_STATES}/{digest}-{fold}"),
        )

    def _baselines_items(self) -> pl.DataFrame:
        items, content = self.items(), self.settings.baselines.content
        no_text = {"title": pl.lit(""), "text": pl.lit("")}
        no_image = {"image": pl.lit(None, dtype=pl.String)}
        if content == "text":
            return items.with_columns(**no_image)
        if content == "image":
            return items.with_columns(**no_text)
        if content == "image_summary":
            summaries = self.run.read("summaries").select("item_id", "image_summary")
            joined = items.join(summaries, on="item_id", how="left", maintain_order="left")
            told = {"title": pl.lit(""), "text": pl.col("image_summary").fill_null("")}
            return joined.with_columns(**told, **no_image).drop("image_summary")
        return items

    def relative_images(self, items: pl.DataFrame) -> pl.DataFrame:
        """Image paths inside the run folder made relative, so that the folder can be moved."""
        return items.with_columns(pl.col("image").str.strip_prefix(f"{self.run.folder}/"))

    def examples(self, candidates: pl.DataFrame) -> Iterator[Example]:
        """The recommender's dialogues for candidate rows, lazily and in their order."""
        summaries = self.run.read("summaries")
        return build_examples(
            candidates,
            self.run.read("preferences"),
            self.items(),
            item_type=self.item_type,
            max_text_tokens=self.settings.train.max_text_tokens,
            image_status=dict(zip(summaries["item_id"], summaries["image_status"], strict=True)),
        )

    def scored_models(self) -> list[str]:
        """Names of the models that have scored.

        Raises:
            RunFolderError: None has.
        """
        scored = [name.removeprefix("score/") for name in self.run.stages if name[:6] == "score/"]
        if not scored:
            raise RunFolderError(
                needed="scores to judge",
                received=f"none in {self.run.folder}",
                remedy="run the stage 'score' first",
            )
        return scored


def usage(backend: CachedBackend) -> dict[str, int]:
    """What a stage asked of its model, and what it was spared: for the manifest."""
    return {
        "misses": backend.misses,
        "hits": backend.hits,
        "prompt_tokens": backend.prompt_tokens,
        "output_tokens": backend.output_tokens,
    }


def before_last(interactions: pl.DataFrame) -> pl.DataFrame:
    """What a user's preference may read: everything before the last interaction, the target."""
    return interactions.filter(pl.col("position") < pl.col("position").max().over("user_id"))
