"""Content-kNN: similarity by texts and images, new items, weights of the modalities."""

from __future__ import annotations

import polars as pl
import pytest
from PIL import Image

from mllm_msr.baselines.content_knn import ContentKnn
from mllm_msr.errors import DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, empty

TITLES = {
    "r1": "river boats at dawn",
    "r2": "boats on the river",
    "r3": "river dawn",
    "m1": "snowy mountain peaks",
    "m2": "mountain peaks in snow",
    "m3": "peaks of a mountain",
}
SHADES = {"r": (220, 30, 30), "m": (20, 40, 200)}


@pytest.fixture
def data(tmp_path):
    rows = []
    for item, title in TITLES.items():
        # Images contradict the titles: r1, m2, r3 are red, the others blue.
        path = tmp_path / f"{item}.png"
        red = item in {"r1", "m2", "r3"}
        Image.new("RGB", (20, 20), SHADES["r" if red else "m"]).save(path)
        rows.append((item, title, "", str(path)))
    history = pl.DataFrame([("u", "r1", 0, 0)], schema=dict(INTERACTIONS), orient="row")
    items = pl.DataFrame([*rows, ("bare", None, None, None)], schema=dict(ITEMS), orient="row")
    return TrainingData(history, items, empty(CANDIDATES), frozenset("u"))


def scores(model, data, *items, user="u"):
    candidates = pl.DataFrame({"user_id": user, "position": 1, "item_id": list(items)})
    found = model.score(candidates, data.interactions)
    return dict(zip(items, found["score"], strict=True))


def test_without_image_weight_texts_decide(data):
    found = scores(ContentKnn(image_weight=0.0).fit(data), data, *TITLES)
    assert min(found["r2"], found["r3"]) > max(found["m1"], found["m2"], found["m3"])


def test_with_image_weight_1_images_decide(data):
    found = scores(ContentKnn(image_weight=1.0).fit(data), data, *TITLES)
    assert min(found["m2"], found["r3"]) > max(found["r2"], found["m1"], found["m3"])


def test_items_without_content_and_users_without_history_score_0(data):
    model = ContentKnn().fit(data)
    assert scores(model, data, "bare", "strange") == {"bare": 0.0, "strange": 0.0}
    assert set(scores(model, data, *TITLES, user="unknown").values()) == {0.0}


def test_a_loaded_model_needs_no_encoder(data, tmp_path):
    model = ContentKnn(content_cache=tmp_path / "vectors").fit(data)
    model.save(tmp_path / "model")
    for image in tmp_path.glob("*.png"):
        image.unlink()
    assert scores(ContentKnn.load(tmp_path / "model"), data, *TITLES) == scores(
        model, data, *TITLES
    )


@pytest.mark.parametrize(("name", "value"), [("image_weight", 1.5), ("decay", 0.0), ("n_last", 0)])
def test_settings_out_of_range_are_rejected(name, value):
    with pytest.raises(SettingsError, match=rf"{name} must .*, but is {value}"):
        ContentKnn(**{name: value})


def test_unfitted_and_missing_models_are_rejected(tmp_path):
    with pytest.raises(TrainingError, match="'content_knn' is not fitted"):
        ContentKnn().save(tmp_path)
    with pytest.raises(DamagedFileError, match="Cannot load the fitted baseline"):
        ContentKnn.load(tmp_path)
