"""Fixtures that several test modules share. Modules that are slow to import are imported on use."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from PIL import Image

# Settings of the run that `demo_run` returns.
SMALL_DEMO = (
    "data.n_users=24",
    "data.n_items=40",
    "data.n_negatives=5",
    "train.method=lora",
    "train.rank=4",
    "train.max_steps=4",
    "train.batch_size=8",
    "train.validate_every=2",
    "report.case_studies=2",
)

# Tests run in parallel, so several threads per test would only compete for the cores.
os.environ["OMP_NUM_THREADS"] = "1"

# The time of an example depends on what else the machine does, so it must not fail a test.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the objects that exist after collection from garbage collections.

    Imported packages and tests are about a million objects that live until the end. Visiting them
    again and again takes a quarter of the time of the collection of tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def config_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep records about trusted runs out of the user's own configuration folder."""
    folder = tmp_path_factory.mktemp("config")
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let `os.fsync` only check its argument in this process.

    The operating system keeps what a killed process has written; flushing it to the disk only
    matters if the power fails. Other processes that tests start flush as usual.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small finished run of the preset `demo`, which tests must not change.

    All processes of the test run share it.
    """
    from filelock import FileLock

    from mllm_msr.config.loading import load_settings
    from mllm_msr.pipeline.pipeline import Pipeline

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "demo" / "run"
    overrides = [*SMALL_DEMO, f"data.covers={folder.parent / 'covers'}"]
    settings = load_settings("demo", overrides, environment={})
    with FileLock(root / "demo.lock"), Pipeline.open(folder, settings) as pipeline:
        pipeline.run_all()
    return folder


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[], str]]:
    """Return a function that creates a database of a PostgreSQL server and returns its URL."""
    import postgres_server

    pytest.importorskip("psycopg")
    programs = postgres_server.find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    with postgres_server.postgres(programs) as create:
        yield create


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that builds the tiny checkpoint of a family once and returns its folder."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import tiny_checkpoints

    root = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def folder(family: str) -> Path:
        return tiny_checkpoints.build(family, root / family)

    return folder


@pytest.fixture(scope="session")
def processor(tiny_checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return a function that loads the processor of a family's tiny checkpoint once."""
    from mllm_msr.models.loading import load_processor

    return functools.cache(lambda family: load_processor(str(tiny_checkpoint(family))))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Return noise images with four aspect ratios: wide, tall, square and very wide."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    paths = []
    for width, height in ((60, 40), (40, 60), (48, 48), (150, 20)):
        paths.append(folder / f"{width}x{height}.png")
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    return paths
