"""MLLM-MSR as a recommender: prompts, fallbacks, saving and loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.recommend_settings import PromptOrder, RecommendSettings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.errors import (
    CapabilityError,
    DamagedFileError,
    DataError,
    SettingsError,
    TrainingError,
)
from mllm_msr.interfaces import TrainingData
from mllm_msr.models.inputs import Rendered, Renderer
from mllm_msr.models.processor_options import recorded_options
from mllm_msr.ranker.recommender import VARIANTS, MllmRecommender
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, PREFERENCES, empty
from mllm_msr.types import Prompt

TITLES = {"a": "Lantern", "b": "Harbor", "c": "Owl"}


def preferences(*rows: tuple[str, int, str]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "n_items", "preference"], orient="row")
    filled = empty(PREFERENCES)
    return pl.concat([filled, frame.with_columns(pl.col("n_items").cast(PREFERENCES["n_items"]))],
                     how="diagonal")  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    rows = [(one, title, "", str(tmp_path / f"{one}.png")) for one, title in TITLES.items()]
    for *_, path in rows:
        Image.new("RGB", (8, 8), "red").save(path)
    (tmp_path / "b.png").write_bytes(b"damaged")
    return TrainingData(
        interactions=empty(INTERACTIONS),
        items=pl.DataFrame(rows, schema=dict(ITEMS), orient="row"),
        candidates=empty(CANDIDATES),
        train_users=frozenset(),
        preferences=preferences(("u1", 3, "early tales"), ("u1", 6, "late tales")),
    )


def candidates(*rows: tuple[str, int, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "position", "item_id"], orient="row")


def score_prompts(
    data: TrainingData, *rows: tuple[str, int, str]
) -> tuple[list[str], list, list[float | None]]:
    """Return prompt texts and images in order of item ids, and the scores."""
    backend = MockBackend(scores=(0.8, 0.2))
    model = MllmRecommender(open_backend=lambda _: backend).fit(data)
    scores = model.score(candidates(*rows), data.interactions)["score"].to_list()
    texts = [prompt.text for prompt in backend.history]
    return texts, [prompt.images for prompt in backend.history], scores


def test_a_candidate_sees_the_preference_before_its_position(data: TrainingData) -> None:
    texts, _, scores = score_prompts(data, ("u1", 4, "a"), ("u1", 6, "b"))
    assert "early tales" in texts[0]
    assert "late tales" in texts[1]
    assert scores == pytest.approx([0.8, 0.8])


def test_unknown_users_get_a_neutral_preference_and_unknown_items_no_score(
    data: TrainingData,
) -> None:
    texts, _, scores = score_prompts(data, ("new", 0, "a"), ("u1", 6, "unknown"))
    assert len(texts) == 1
    assert "has not shown a preference yet" in texts[0]
    assert scores == [pytest.approx(0.8), None]


def test_images_that_cannot_be_read_are_not_shown(data: TrainingData) -> None:
    _, images, _ = score_prompts(data, ("u1", 6, "a"), ("u1", 6, "b"), ("u1", 6, "c"))
    assert [len(shown) for shown in images] == [1, 0, 1]


def test_preferences_are_required(data: TrainingData) -> None:
    without = TrainingData(data.interactions, data.items, data.candidates, data.train_users)
    with pytest.raises(DataError, match="Run the stage 'infer' first"):
        MllmRecommender().fit(without)
    with pytest.raises(TrainingError, match="not fitted"):
        MllmRecommender().score(candidates(("u1", 6, "a")), data.interactions)


def test_a_backend_without_weights_cannot_be_fine_tuned(data: TrainingData) -> None:
    model = MllmRecommender(backend="mock", training=TrainSettings())
    with pytest.raises(CapabilityError, match="backend 'mock' has no weights to fine-tune"):
        model.fit(data)


def test_zero_shot_saves_and_loads(data: TrainingData, tmp_path: Path) -> None:
    model = MllmRecommender(backend="mock", options={"scores": [0.7, 0.3]}).fit(data)
    rows = candidates(("u1", 6, "a"), ("u1", 4, "b"))
    expected = model.score(rows, data.interactions)
    model.save(tmp_path / "model")
    loaded = MllmRecommender.load(tmp_path / "model")
    assert loaded.score(rows, data.interactions).equals(expected)
    assert loaded.weights is None
    (tmp_path / "model" / "preferences.parquet").unlink()
    with pytest.raises(DamagedFileError, match="cannot be read"):
        MllmRecommender.load(tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("order", ["item-first", "user-first"])
def test_fine_tuning_learns_and_saves_its_weights(
    order: PromptOrder, data: TrainingData, tmp_path: Path
) -> None:
    """Half of the users like lanterns and interact with the lantern, the others with the owl."""
    users = [f"u{n}" for n in range(8)]
    texts = ["The user likes lanterns.", "The user likes owls."]
    rows = [
        (0, "train", "uniform", user, 3, item, int((n % 2 == 0) == (item == "a")))
        for n, user in enumerate(users)
        for item in ("a", "c")
    ]
    training = TrainingData(
        interactions=data.interactions,
        items=data.items.with_columns(image=pl.lit(None, dtype=pl.String)),
        candidates=pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset(users),
        preferences=preferences(*((user, 3, texts[n % 2]) for n, user in enumerate(users))),
    )
    settings = TrainSettings(
        epochs=12, batch_size=8, learning_rate=1e-2, dropout=0.0, precision="fp32", warmup=0.0
    )
    prompt = RecommendSettings(order=order)
    model = MllmRecommender(training=settings, prompt=prompt, output=tmp_path / "run").fit(training)
    test = candidates(*((user, 3, item) for user in users[:2] for item in ("a", "c")))
    scored = model.score(test, training.interactions)
    first, second = scored.partition_by("user_id", maintain_order=True)
    assert first["score"][0] > first["score"][1]
    assert second["score"][0] < second["score"][1]
    assert model.training_summary is not None
    assert model.n_examples == len(rows)
    assert model.weights == tmp_path / "run" / "adapter"
    model.save(tmp_path / "model")
    model.close()
    loaded = MllmRecommender.load(tmp_path / "model")
    assert loaded.score(test, training.interactions).equals(scored)
    other: PromptOrder = "item-first" if order == "user-first" else "user-first"
    with pytest.raises(SettingsError, match=f"were fine-tuned with {order}"):
        MllmRecommender(prompt=RecommendSettings(order=other)).attach(
            training, weights=model.weights
        )
    with pytest.raises(SettingsError, match=f"were fine-tuned with {order}"):
        MllmRecommender(
            options={"adapter": model.weights}, prompt=RecommendSettings(order=other)
        ).fit(training)


def test_prompts_begin_with_the_user_if_set(data: TrainingData) -> None:
    backend = MockBackend(scores=(0.8, 0.2))
    prompt = RecommendSettings(order="user-first")
    model = MllmRecommender(open_backend=lambda _: backend, prompt=prompt).fit(data)
    rows = candidates(("u1", 6, "a"), ("u1", 4, "a"), ("u1", 6, "c"), ("u1", 4, "c"))
    model.score(rows, data.interactions)
    texts = [prompt.text for prompt in backend.history]
    assert all(text.startswith("You are given a summary of a user's preference") for text in texts)
    assert ["early" in text for text in texts] == [True, True, False, False]


def test_fine_tuning_prepares_images_as_scoring_does(
    data: TrainingData,
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(0, "train", "uniform", "u1", 4, item, n) for n, item in enumerate("ac")]
    training = replace(
        data,
        candidates=pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row"),
        train_users=frozenset({"u1"}),
    )
    lengths: dict[bool, set[int]] = {True: set(), False: set()}
    render = Renderer.render

    def spy(renderer: Renderer, prompt: Prompt, answer: str | None = None) -> Rendered:
        rendered = render(renderer, prompt, answer)
        lengths[answer is not None].add(len(rendered.input_ids))
        return rendered

    monkeypatch.setattr(Renderer, "render", spy)
    options = {"image_tokens": 20, "processor": {"return_row_col_info": True}}
    for extra in ({}, options):
        model = MllmRecommender(
            backend="huggingface",
            options={"checkpoint": str(tiny_checkpoint("smolvlm")), "device": "cpu", **extra},
            training=TrainSettings(max_steps=1, batch_size=2, precision="fp32"),
            output=tmp_path / str(len(extra)),
        ).fit(training)
        model.score(candidates(("u1", 4, "a"), ("u1", 4, "c")), data.interactions)
        model.close()
        assert model.weights is not None
        assert json.loads(recorded_options(model.weights) or "{}") == extra
    whole, reduced = max(lengths[True]), min(lengths[True])
    assert whole - reduced >= 34 - 7  # tokens of the image; titles differ in length
    assert lengths[True] == lengths[False]


def test_variants_differ_by_their_overrides() -> None:
    assert {name for name, variant in VARIANTS.items() if variant.overrides} == {
        "mllm_msr_direct",
        "mllm_msr_text_only",
    }
    assert not VARIANTS["zero_shot"].fine_tuned
