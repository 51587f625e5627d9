"""The same interactions, written in another way, give the same tables.

Other units and formats of times, other file types, and other orders of the rows must not change a
run. Other ids change the random numbers that are derived from them, so only the histories are
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline

START = 1_709_251_200  # 2024-03-01 UTC
TIME = pl.from_epoch(START + pl.col("timestamp"))
SECONDS = START + pl.col("timestamp")

# Time column, and the settings that read it.
TIMES: dict[str, tuple[pl.Expr, list[str]]] = {
    "s": (SECONDS, []),
    "s with decimals": (pl.format("{}.000", SECONDS), []),
    "ms": (SECONDS * 1000, ["data.time_unit=ms"]),
    "us": (SECONDS * 1_000_000, ["data.time_unit=us"]),
    "ns": (SECONDS * 1_000_000_000, ["data.time_unit=ns"]),
    "iso": (TIME.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), ["data.time_unit=iso"]),
    "iso with a space": (TIME.dt.strftime("%Y-%m-%d %H:%M:%S"), ["data.time_unit=iso"]),
    "iso with an offset": (
        (TIME + pl.duration(minutes=330)).dt.strftime("%Y-%m-%dT%H:%M:%S+05:30"),
        ["data.time_unit=iso"],
    ),
    "day first": (
        TIME.dt.strftime("%d/%m/%Y %H:%M:%S"),
        ["data.time_format=%d/%m/%Y %H:%M:%S"],
    ),
    "month first": (
        TIME.dt.strftime("%m/%d/%y %I:%M:%S %p"),
        ["data.time_format=%m/%d/%y %I:%M:%S %p"],
    ),
    "digits": (TIME.dt.strftime("%Y%m%d%H%M%S"), ["data.time_format=%Y%m%d%H%M%S"]),
    "excel": (SECONDS / 86_400 + 25_569, ["data.time_unit=excel"]),
}
WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": lambda frame, path: frame.write_csv(path),
    "tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "jsonl": lambda frame, path: frame.write_ndjson(path),
    "parquet": lambda frame, path: frame.write_parquet(path),
}


def prepare(
    folder: Path, frame: pl.DataFrame, *more: str, kind: str = "csv"
) -> dict[str, pl.DataFrame]:
    """Run the stage "prepare" on the given interactions and return its tables."""
    data = worlds.write_files(folder / "data")
    (data / "interactions.csv").unlink()
    WRITERS[kind](frame, data / f"interactions.{kind}")
    settings = load_settings("default", worlds.settings(data, *more), environment={})
    with Pipeline.open(folder / "run", settings) as pipeline:
        pipeline.run_until("prepare")
    names = ("interactions", "items", "splits", "candidates")
    tables = {name: pl.read_parquet(folder / "run" / f"{name}.parquet") for name in names}
    return tables | {"items": tables["items"].drop("image")}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Return the interactions, with distinct times for each user."""
    folder = worlds.write_files(tmp_path_factory.mktemp("original"))
    return pl.read_csv(folder / "interactions.csv").with_columns(timestamp=pl.col("timestamp") * 60)


@pytest.fixture(scope="module")
def expected(
    original: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pl.DataFrame]:
    return prepare(tmp_path_factory.mktemp("expected"), original.with_columns(timestamp=SECONDS))


@pytest.mark.parametrize("name", TIMES)
def test_units_and_formats_of_times_do_not_matter(
    name: str, original: pl.DataFrame, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    times, settings = TIMES[name]
    found = prepare(tmp_path, original.with_columns(timestamp=times), *settings)
    assert all(found[table].equals(expected[table]) for table in expected)


@pytest.mark.parametrize("kind", WRITERS)
def test_file_types_and_the_order_of_rows_do_not_matter(
    kind: str, original: pl.DataFrame, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    shuffled = original.with_columns(timestamp=SECONDS).sample(fraction=1.0, shuffle=True, seed=1)
    found = prepare(tmp_path, shuffled, kind=kind)
    assert all(found[table].equals(expected[table]) for table in expected)


def test_date_columns_equal_numbers(
    original: pl.DataFrame, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    found = prepare(tmp_path, original.with_columns(timestamp=TIME), kind="parquet")
    assert all(found[table].equals(expected[table]) for table in expected)


def test_ranks_give_the_same_histories(
    original: pl.DataFrame, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    # Large ranks, of which neighbors are equal as floats.
    ranks = 2**60 + pl.col("timestamp").rank("ordinal").cast(pl.Int64)
    found = prepare(tmp_path, original.with_columns(timestamp=ranks), "data.time_unit=rank")
    for table in ("splits", "candidates"):
        assert found[table].equals(expected[table])
    interactions = found["interactions"].drop("timestamp")
    assert interactions.equals(expected["interactions"].drop("timestamp"))


def test_other_user_ids_give_the_same_histories(
    original: pl.DataFrame, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    renamed = original.with_columns(timestamp=SECONDS, user_id="00" + pl.col("user_id"))
    found = prepare(tmp_path, renamed)["interactions"]
    assert found.with_columns(pl.col("user_id").str.slice(2)).equals(expected["interactions"])
