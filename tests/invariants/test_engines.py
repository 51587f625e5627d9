"""A local model and an endpoint give the same summaries, preferences and scores.

The endpoint serves the same weights and processes one prompt at a time. The local engine, which has
batching and prefix sharing, is thus compared with an implementation that has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from endpoints import ModelServer, serve
from mllm_msr import tables
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.examples import build_examples
from mllm_msr.ranker.scoring import score_examples
from mllm_msr.summarization.items import summarize
from mllm_msr.summarization.preferences import infer_preferences
from worlds import settings, write_files

Engines = tuple[Backend, Backend]


@pytest.fixture(scope="module")
def engines(
    tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    folder = tiny_checkpoint("llava_next")
    local = HuggingFaceBackend(str(folder), dtype="float32", device="cpu", batch_size=4)
    with serve(ModelServer(folder, tmp_path_factory.mktemp("images"))) as server:
        remote = OpenAIBackend("tiny", url=server.url, key_variable="NO_KEY", concurrency=4)
        yield local, remote
        remote.close()


@pytest.fixture(scope="module")
def items(images: Sequence[Path]) -> pl.DataFrame:
    rows = [
        ("lantern", "The lantern", "Two sisters carry it home.", str(images[0])),
        ("boat", "A boat", "", str(images[1])),
        ("town", "Old town", "A walk at night.", None),
        ("song", "", "", str(images[3])),
    ]
    return pl.DataFrame(rows, schema=dict(tables.ITEMS), orient="row")


@pytest.fixture(scope="module")
def histories(items: pl.DataFrame) -> pl.DataFrame:
    ids = items["item_id"].to_list()
    rows = [
        (user, ids[(user_no + n) % 4], n, n) for user_no, user in enumerate("ab") for n in range(4)
    ]
    return pl.DataFrame(rows, schema=dict(tables.INTERACTIONS), orient="row")


def test_summaries_are_equal(engines: Engines, items: pl.DataFrame) -> None:
    local, remote = (summarize(items, e, text_words=4, image_words=4, words=4) for e in engines)
    assert local.equals(remote)
    assert local["summary"].n_unique() > 1


def test_preferences_are_equal(
    engines: Engines, items: pl.DataFrame, histories: pl.DataFrame
) -> None:
    summaries = summarize(items, engines[0], text_words=4, image_words=4, words=4)
    local, remote = (infer_preferences(histories, summaries, e, words=4) for e in engines)
    assert local.equals(remote)
    assert local.height == 4


def test_scores_and_rankings_are_equal(
    engines: Engines, items: pl.DataFrame, histories: pl.DataFrame
) -> None:
    rows = [
        {"fold": 0, "split": "test", "negatives": "uniform", "user_id": user, "position": 4,
         "item_id": item, "label": int(item == "boat")}
        for user in "ab" for item in items["item_id"]
    ]  # fmt: skip
    candidates = pl.DataFrame(rows, schema=dict(tables.CANDIDATES))
    preference_rows = [
        {"user_id": user, "block": 0, "n_items": 4, "preference": f"The user likes {what}.",
         "final": True, "flags": ""}
        for user, what in (("a", "boats and lanterns"), ("b", "songs"))
    ]  # fmt: skip
    preferences = pl.DataFrame(preference_rows, schema=dict(tables.PREFERENCES))

    def score(engine: Backend) -> pl.DataFrame:
        examples = build_examples(candidates, preferences, items, item_type="video")
        return score_examples(examples, engine)[0]

    local, remote = (score(engine) for engine in engines)
    assert local.drop("score").equals(remote.drop("score"))
    assert remote["score"].to_list() == pytest.approx(local["score"].to_list(), abs=1e-4)
    orders = [frame.sort("user_id", "score")["item_id"].to_list() for frame in (local, remote)]
    assert orders[0] == orders[1]
    assert local["score"].n_unique() == local.height


def test_every_stage_can_have_its_own_backend(tmp_path: Path) -> None:
    world = write_files(tmp_path / "raw", n_users=6)
    answers = next(text for text in settings(world) if text.startswith("model.answers="))
    answers = answers.partition("=")[2]
    models = [
        f"{stage}.model={{backend: mock, fingerprint: {stage}, answers: {answers}}}"
        for stage in ("summarize", "infer", "score")
    ]
    with Pipeline.open(tmp_path / "run", load_settings("default", settings(world, *models))) as run:
        run.run_until("score")
        used = {name: entry["model"] for name, entry in run.run.stages.items() if entry["model"]}
    assert used == {
        "summarize": "mock:summarize",
        "infer": "mock:infer",
        "score/zero_shot": "mock:score",
    }
