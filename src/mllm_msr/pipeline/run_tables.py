"""Tables of a run folder, prepared for the stages and for users of a finished run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import polars as pl

from mllm_msr.config.settings import Settings
from mllm_msr.data.image_store import resolve_images
from mllm_msr.data.splits import visible_interactions
from mllm_msr.errors import RunFolderError, UsageError
from mllm_msr.interfaces import TrainingData
from mllm_msr.prompts.item_types import ItemType, find_item_type
from mllm_msr.prompts.templates import read_templates
from mllm_msr.storage import layout
from mllm_msr.storage.run_folder import RunFolder


class RunTables:
    """Reader of the tables of a run folder; every read is verified against the manifest.

    Args:
        run: The run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def interactions(self) -> pl.DataFrame:
        """Return `tables.INTERACTIONS`."""
        return self._run.read(layout.INTERACTIONS)

    def histories(self) -> pl.DataFrame:
        """Return the interactions that preferences are inferred from: without the last per user."""
        return without_last(self.interactions())

    def items(self) -> pl.DataFrame:
        """Return `tables.ITEMS` with absolute image paths.

        Raises:
            DamagedFileError: An image is neither in the run folder nor in the dataset's folder.
        """
        items, folders = self._run.read(layout.ITEMS), self._about().get("image_folders", ())
        return resolve_images(items, self._run.folder, allowed=folders)

    def summaries(self) -> pl.DataFrame:
        """Return `tables.SUMMARIES`."""
        return self._run.read(layout.SUMMARIES)

    def preferences(self) -> pl.DataFrame:
        """Return `tables.PREFERENCES`."""
        return self._run.read(layout.PREFERENCES)

    def folds(self) -> list[int]:
        """Return the folds that were prepared, in ascending order."""
        folds = self._run.scan(layout.CANDIDATES).select(pl.col("fold").unique().sort()).collect()
        return folds["fold"].to_list()

    def fold(self, given: int | None) -> int:
        """Return a fold that was prepared: the given one, or the first without one.

        Raises:
            UsageError: The run does not have it; the message names those that it has.
        """
        folds = self.folds()
        if given is None:
            return folds[0]
        if given not in folds:
            raise UsageError(f"The run has no fold {given}. Use one of {str(folds)[1:-1]}.")
        return given

    def candidates(self, fold: int, split: str | None = None) -> pl.DataFrame:
        """Return `tables.CANDIDATES` of one fold, of one split or all."""
        rows = pl.col("fold") == fold
        if split is not None:
            rows &= pl.col("split") == split
        return self._run.scan(layout.CANDIDATES).filter(rows).collect()

    def item_type(self, settings: Settings) -> ItemType:
        """Return the words for an item, and templates, language and style of the prompts.

        Args:
            settings: The run's settings; without `item_type`, the word is that of the dataset.

        Raises:
            SettingsError: The templates in `prompts.folder` cannot be used.
        """
        words = find_item_type(settings.item_type or str(self._about()["item_type"]))
        prompts = settings.prompts
        templates = read_templates(prompts.folder) if prompts.folder is not None else ()
        return replace(words, templates=templates, language=prompts.language, style=prompts.style)

    def data_report(self) -> dict[str, Any] | None:
        """Return what was understood of the dataset, see `data.data_report.DataReport`.

        None for a run that an earlier version prepared.
        """
        if not self._run.has(layout.DATA_REPORT):
            return None
        return cast("dict[str, Any]", self._run.read_json(layout.DATA_REPORT))

    def training_data(self, fold: int, *, content: str = "all") -> TrainingData:
        """Return the training data of a fold, without targets of test users.

        Args:
            fold: The fold.
            content: Content of items that baselines may use, see `baselines.content`.
        """
        visible, train_users = visible_interactions(
            self.interactions(), self._run.read(layout.SPLITS), fold
        )
        candidates = self.candidates(fold)
        return TrainingData(
            interactions=visible,
            items=self._items_with(content),
            candidates=candidates.filter(pl.col("split") != "test"),
            train_users=train_users,
        )

    def _about(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._run.read_json(layout.DATASET))

    def _items_with(self, content: str) -> pl.DataFrame:
        items = self.items()
        no_text = {"title": pl.lit(""), "text": pl.lit("")}
        no_image = {"image": pl.lit(None, dtype=pl.String)}
        if content == "text":
            return items.with_columns(**no_image)
        if content == "image":
            return items.with_columns(**no_text)
        if content == "image_summary":
            summaries = self.summaries().select("item_id", "image_summary")
            joined = items.join(summaries, on="item_id", how="left", maintain_order="left")
            described = {"title": pl.lit(""), "text": pl.col("image_summary").fill_null("")}
            return joined.with_columns(**described, **no_image).drop("image_summary")
        return items

    def scored_models(self) -> list[str]:
        """Return the names of the models with scores.

        Raises:
            RunFolderError: There are no scores.
        """
        stages = self._run.stages
        scored = [name.removeprefix("score/") for name in stages if name.startswith("score/")]
        if not scored:
            raise RunFolderError(
                f"No model has scores in {self._run.folder}. Run the stage 'score' first."
            )
        return scored

    def n_updates(self) -> int:
        """Return the number of updates with new interactions."""
        updates = [name for name in self._run.stages if name.startswith("update/")]
        return max((int(name.removeprefix("update/")) for name in updates), default=0)

    def current_names(self) -> list[str]:
        """Return the names of all tables that `current` reads."""
        tables = (layout.INTERACTIONS, layout.PREFERENCES)
        return [name for table in tables for name in (table, *self.updates(table))]

    def updates(self, name: str) -> list[str]:
        """Return the names of a table in all updates, in their order."""
        return [f"{layout.UPDATES}/{n}/{name}" for n in range(1, self.n_updates() + 1)]

    def current(self, name: str) -> pl.DataFrame:
        """Return a table with all updates applied, with the newest rows of each user.

        Args:
            name: "interactions" or "preferences".
        """
        frame = self._run.read(name)
        for update in self.updates(name):
            newer = self._run.read(update)
            unchanged = frame.join(newer.select("user_id").unique(), on="user_id", how="anti")
            frame = pl.concat([unchanged, newer])
        return frame


def without_last(interactions: pl.DataFrame) -> pl.DataFrame:
    """Return all interactions except the last one of each user."""
    return interactions.filter(pl.col("position") < pl.col("position").max().over("user_id"))
