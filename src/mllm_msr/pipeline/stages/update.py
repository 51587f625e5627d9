"""Beside the flow: new interactions come in, and preferences follow at one prompt per open block.

The tables that were judged stay as they are. Each update is a stage of its own, `update/1`,
`update/2`, ..., that writes the whole histories of the users whom it concerns, target included,
and their preference_histories; the newest one that knows a user speaks for him.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mllm_msr import tables
from mllm_msr.errors import DataError
from mllm_msr.pipeline.context import Workspace, usage
from mllm_msr.storage import atomic
from mllm_msr.summarization.preferences import infer_preferences


def run(work: Workspace, file: Path) -> dict[str, int]:
    """Add interactions and bring the preferences of their users up to date.

    Args:
        work: A run whose preferences have been inferred.
        file: CSV or Parquet with `user_id`, `item_id` and `timestamp` (integer milliseconds).
            Rows that are there already are passed over, so that a repeated call does no harm.

    Returns:
        How many interactions and users were new or changed, and how many prompts that took.

    Raises:
        DataError: The file cannot be read, names unknown items, or is older than the history.
    """
    news = _read(file)
    before = current(work, "interactions", work.run.read("interactions"))
    added = news.join(before, on=["user_id", "item_id", "timestamp"], how="anti")
    _refuse_unknown_items(added, work.run.read("items"))
    _refuse_late(added, before)
    if added.is_empty():
        return {"interactions": 0, "users": 0, "misses": 0}
    histories = _append(before, added)
    settings = work.settings.infer
    arguments = settings.model_dump(mode="json", exclude={"model"})
    with (
        work.backend(settings.model) as backend,
        work.stage(
            f"update/{_newest(work) + 1}",
            {**arguments, "file": atomic.content_hash(file)[0]},
            inputs=["summaries", "preferences"],
            prompt_templates=("preference_first", "preference_update"),
            model=backend.fingerprint,
        ) as stage,
    ):
        preferences = infer_preferences(
            histories,
            work.run.read("summaries"),
            backend,
            item_type=work.item_type,
            previous=current(work, "preferences", work.run.read("preferences")),
            **arguments,
        )
        number = stage.name.removeprefix("update/")
        stage.write(f"updates/{number}/interactions", histories)
        stage.write(f"updates/{number}/preferences", preferences)
        counts = {
            "interactions": added.height,
            "users": added["user_id"].n_unique(),
            **usage(backend),
        }
        stage.count(**counts)
    return counts


def _newest(work: Workspace) -> int:
    done = [int(name[7:]) for name in work.run.stages if name.startswith("update/")]
    return max(done, default=0)


def current(work: Workspace, name: str, judged: pl.DataFrame) -> pl.DataFrame:
    """A table as the updates so far left it: for each user the newest version.

    Args:
        work: The run.
        name: "interactions" or "preferences".
        judged: The run's own table of that name.
    """
    frame = judged
    for number in range(1, _newest(work) + 1):
        newer = work.run.read(f"updates/{number}/{name}")
        rest = frame.join(newer.select("user_id").unique(), on="user_id", how="anti")
        frame = pl.concat([rest, newer])
    return frame


def _read(file: Path) -> pl.DataFrame:
    needed = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    try:
        frame = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file)
        rows = frame.select(pl.col(name).cast(kind) for name, kind in needed.items())
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise DataError(
            needed="a CSV or Parquet file with user_id, item_id and timestamp (milliseconds)",
            received=f"{file} ({str(cause).splitlines()[0]})",
            remedy="mend the file, then give the same command",
        ) from cause
    if sum(rows.null_count().row(0)):
        raise DataError(
            needed="a value in every row and column of the interactions",
            received=f"{file} with {sum(rows.null_count().row(0))} empty cells",
            remedy="fill or remove those rows",
        )
    return rows.unique(maintain_order=True).sort("timestamp", maintain_order=True)


def _refuse_unknown_items(added: pl.DataFrame, items: pl.DataFrame) -> None:
    unknown = added.join(items, on="item_id", how="anti")["item_id"].unique().sort()
    if len(unknown):
        raise DataError(
            needed="items that the run has summarised",
            received=f"{len(unknown)} unknown ones, for instance {unknown[0]!r}",
            remedy="leave them out, or prepare a run with them",
        )


def _refuse_late(added: pl.DataFrame, before: pl.DataFrame) -> None:
    newest = before.group_by("user_id").agg(newest=pl.col("timestamp").max())
    late = added.join(newest, on="user_id").filter(pl.col("timestamp") < pl.col("newest"))
    if late.height:
        raise DataError(
            needed="interactions no older than what the run knows of the user",
            received=f"{late.height} older ones, for instance of user {late['user_id'][0]!r}",
            remedy="leave them out, or prepare the run again with them",
        )


def _append(before: pl.DataFrame, added: pl.DataFrame) -> pl.DataFrame:
    """The whole histories of the users who have new interactions."""
    users = added.select("user_id").unique()
    both = pl.concat(
        [
            before.join(users, on="user_id", how="semi").sort("user_id", "position"),
            added.with_columns(position=pl.lit(2**31 - 1, dtype=pl.Int32)),
        ],
        how="diagonal",
    ).select(*tables.INTERACTIONS)
    ordered = both.sort("user_id", "position", maintain_order=True)
    place = pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")
    return ordered.with_columns(position=place)
