"""LLaVA zero-shot: prompts, and answers of the demo model."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import polars as pl
import pytest
from PIL import Image

from mllm_msr.baselines.llava_zero_shot import LlavaZeroShot
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.ranker.prompt_scorer import ShowsScoring
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty


@pytest.fixture
def data(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "b.png")
    rows = [("a", "Dawn", "", None), ("b", "Dusk", "", str(tmp_path / "b.png"))]
    return TrainingData(
        pl.DataFrame([("u", "a", 0, 0)], schema=dict(INTERACTIONS), orient="row"),
        pl.DataFrame(rows, schema=dict(ITEMS), orient="row"),
        empty(CANDIDATES),
        frozenset("u"),
    )


def scores(model, data):
    candidates = pl.DataFrame({"user_id": ["u"] * 2, "position": [1] * 2, "item_id": ["a", "b"]})
    return model.score(candidates, data.interactions)["score"].to_list()


def test_the_history_and_the_candidate_reach_the_model(data):
    script = {'first: "Dawn"\nThe title of the film: "Dusk"': (0.3, 0.1), "Dawn": (0.1, 0.1)}
    model = LlavaZeroShot(backend="mock", options={"scores": script}, item_type="film").fit(data)
    assert scores(model, data) == pytest.approx([0.5, 0.75])


def test_a_catalog_without_images_is_named_if_images_are_wanted(data, caplog):
    titles = replace(data, items=data.items.with_columns(image=pl.lit(None, pl.String)))
    LlavaZeroShot().fit(data)
    LlavaZeroShot(use_images=False).fit(titles)
    assert caplog.messages == []
    LlavaZeroShot().fit(titles)
    (message,) = caplog.messages
    assert message.startswith("LLaVA zero-shot reads titles only, because no item has an image")


def test_answered_prompts_are_shown(data):
    shown = []

    @contextlib.contextmanager
    def progress(total):
        yield lambda n: shown.append((n, total))

    model = LlavaZeroShot(backend="mock", options={"scores": {"title": (0.1, 0.3)}}).fit(data)
    assert isinstance(model, ShowsScoring)
    model.show_scoring(progress)
    scores(model, data)
    assert sum(n for n, _ in shown) == 2
    assert {total for _, total in shown} == {2}


def test_the_demo_model_answers(data):
    found = scores(LlavaZeroShot().fit(data), data)
    assert all(0.0 < value < 1.0 for value in found)
    assert found[0] != found[1]


def test_invalid_settings_are_rejected():
    with pytest.raises(SettingsError, match="n_last must be at least 1, but is 0"):
        LlavaZeroShot(n_last=0)


def test_damage_and_missing_fits_are_reported(data, tmp_path):
    with pytest.raises(TrainingError, match="'llava_zero_shot' is not fitted"):
        LlavaZeroShot().save(tmp_path)
    LlavaZeroShot().fit(data).save(tmp_path / "model")
    (tmp_path / "model" / "items.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match="cannot be read"):
        LlavaZeroShot.load(tmp_path / "model")
