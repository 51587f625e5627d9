"""The student: distillation, preferences, and new items without training."""

from __future__ import annotations

import logging
from dataclasses import replace

import polars as pl
import pytest

from mllm_msr.baselines.sasrec_f import SasRecF
from mllm_msr.baselines.student import Student
from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.interfaces import TrainingData
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, PREFERENCES, SUMMARIES, TEACHER, empty

SMALL = {"hidden": 16, "epochs": 15, "batch_size": 16, "learning_rate": 0.01}
CONTENT = {"image_encoder": "none", "id_dropout": 0.3}
TOPICS = [("cat", "kitten whiskers purring"), ("ship", "harbour anchor sailing")]


def student(**more) -> Student:
    return Student(**{**SMALL, **CONTENT, **more})


def table(rows, schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schema), orient="row")


@pytest.fixture(scope="module")
def data() -> TrainingData:
    """Users who like either cats or ships; two items of the catalog have no interactions."""
    items = [
        (f"{name}{at}", f"{name} {at}", text, None) for name, text in TOPICS for at in range(8)
    ]
    rows = [
        (f"u{user}", f"{TOPICS[user % 2][0]}{(user // 2 + 3 * at) % 7}", at, at)
        for user in range(40)
        for at in range(5)
    ]
    return TrainingData(
        interactions=table(rows, INTERACTIONS),
        items=table(items, ITEMS),
        candidates=empty(CANDIDATES),
        train_users=frozenset(f"u{user}" for user in range(40)),
    )


@pytest.fixture(scope="module")
def preferences() -> pl.DataFrame:
    """Preferences after three items."""
    rows = [(f"u{user}", 0, 3, f"likes {TOPICS[user % 2][1]}", True, "") for user in range(40)]
    return table(rows, PREFERENCES)


def candidates(*items: str, user: str = "u0", position: int = 5) -> pl.DataFrame:
    rows = [(user, position, item) for item in items]
    schema = {"user_id": pl.String, "position": pl.Int32, "item_id": pl.String}
    return table(rows, schema)


def scores(model: Student, data: TrainingData, *items: str, **target) -> list[float]:
    return model.score(candidates(*items, **target), data.interactions)["score"].to_list()


def test_the_order_of_the_teacher_is_learned(data):
    # The teacher prefers the third ship to the fourth, which interactions do not say.
    rows = [
        (f"u{user}", 5, item, score)
        for user in range(0, 40, 2)
        for item, score in (("ship3", 0.9), ("ship4", 0.1))
    ]
    taught = student(distillation=5.0).fit(replace(data, teacher=table(rows, TEACHER)))
    opposite = [(user, at, item, 1 - score) for user, at, item, score in rows]
    other = student(distillation=5.0).fit(replace(data, teacher=table(opposite, TEACHER)))
    first, second = scores(taught, data, "ship3", "ship4")
    assert first > second + 1
    first, second = scores(other, data, "ship3", "ship4")
    assert second > first + 1


def test_the_teacher_is_followed_only_if_validation_users_rank_better_with_it(data, caplog):
    caplog.set_level(logging.INFO)
    users = [f"u{user}" for user in range(0, 40, 2)]
    rows = [
        (0, "validation", "uniform", user, 5, item, label)
        for user in users
        for item, label in (("ship3", 1), ("ship4", 0))
    ]
    given = replace(data, candidates=table(rows, CANDIDATES))
    scored = [(user, 5, item, p) for user in users for item, p in (("ship3", 0.9), ("ship4", 0.1))]
    right = student(distillation=5.0).fit(replace(given, teacher=table(scored, TEACHER)))
    assert "without them, so it uses them" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    first, second = scores(right, data, "ship3", "ship4")
    assert first > second + 1
    opposite = [(*key, 1 - p) for *key, p in scored]
    wrong = student(distillation=5.0).fit(replace(given, teacher=table(opposite, TEACHER)))
    alone = student(distillation=0).fit(given)
    assert scores(wrong, data, "ship3", "ship4") == scores(alone, data, "ship3", "ship4")
    assert wrong.training_log.best_value == alone.training_log.best_value
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "without them, so it leaves them out" in warning.getMessage()


def test_without_a_teacher_it_says_so_unless_asked_not_to_distill(data, caplog):
    caplog.set_level(logging.WARNING)
    student(epochs=1, distillation=0).fit(data)
    assert not caplog.text
    alone = student(epochs=1).fit(data)
    assert "no teacher scores, so the student learns from interactions only" in caplog.text
    none = student(epochs=1).fit(replace(data, teacher=empty(TEACHER)))
    assert scores(none, data, "cat1") == scores(alone, data, "cat1")


def test_without_teacher_and_texts_it_is_sasrec_f(data):
    """The same network with other text vectors: the weights agree where no text is involved."""
    taught = student(epochs=1, distillation=0).fit(data)
    plain = SasRecF(**{**SMALL, "epochs": 1}, **CONTENT).fit(data)
    names = {name.removeprefix("encoder.") for name in taught._fitted.network.state_dict()}
    assert names - {"scale_text"} == set(plain._fitted.network.state_dict())


def test_new_items_are_ranked_by_content_without_training(data, tmp_path):
    taught = student(distillation=0).fit(data)
    new = [("x", "new cat", TOPICS[0][1], None), ("y", "new ship", TOPICS[1][1], None)]
    taught.save(tmp_path / "saved")
    model = Student.load(tmp_path / "saved").add_items(table(new, ITEMS))
    for user, better, worse in (("u0", "x", "y"), ("u1", "y", "x")):
        first, second = scores(model, data, better, worse, user=user)
        assert first > second
    assert scores(model, data, "cat1", "cat7") == scores(taught, data, "cat1", "cat7")
    assert model.catalog == (*taught.catalog, "x", "y")
    users = candidates("x").select("user_id", "position")
    ((_, values),) = model.score_catalog(users, data.interactions)
    assert values[0, -2:].tolist() == pytest.approx(scores(model, data, "x", "y"), abs=1e-5)
    # New items can be part of a history, are saved, and are not added twice.
    model.add_items(table(new, ITEMS)).save(tmp_path / "grown")
    grown = Student.load(tmp_path / "grown")
    assert grown.catalog == model.catalog
    later = pl.concat([data.interactions, table([("new", "x", 0, 0)], INTERACTIONS)])
    target = candidates("cat7", "ship7", user="new", position=1)
    cat, ship = grown.score(target, later)["score"].to_list()
    assert cat > ship


def test_an_item_that_is_added_equals_a_cold_item_of_the_catalog(data):
    taught = student(distillation=0).fit(data)
    copy = data.items.filter(pl.col("item_id") == "cat7").with_columns(item_id=pl.lit("copy"))
    cold, added = scores(taught.add_items(copy), data, "cat7", "copy")
    assert added == pytest.approx(cold, abs=1e-5)


def test_summaries_replace_the_texts(data):
    rows = [
        (item, "", None, f"A picture book about {TOPICS[item.startswith('ship')][0]}s.", "ok", "")
        for item in data.items["item_id"]
        if item != "cat7"
    ]
    model = student(epochs=1, distillation=0).fit(replace(data, summaries=table(rows, SUMMARIES)))
    assert "cat 7\nkitten whiskers purring" in model._corpus
    assert "cat 6\nA picture book about cats." in model._corpus


def test_preferences_are_read_from_their_position_on(data, preferences, tmp_path):
    model = student(distillation=0).fit(replace(data, preferences=preferences))
    without = Student.load(_saved(model, tmp_path / "model"))
    without._fitted = replace(without._fitted, texts=None)
    assert scores(model, data, "cat1", position=2) == scores(without, data, "cat1", position=2)
    assert scores(model, data, "cat1", position=3) != scores(without, data, "cat1", position=3)
    # A later preference, which may know the target, changes no earlier score.
    later = preferences.with_columns(preference=pl.lit("other"), n_items=pl.lit(5, pl.Int32))
    both = student(distillation=0).fit(
        replace(data, preferences=pl.concat([preferences, later]).sort("user_id", "n_items"))
    )
    assert both._fitted.texts.rows.height == 80
    earlier = both._fitted.histories(candidates("cat1", position=4), data.interactions).texts
    assert earlier.tolist() == [0, 0, 1, 1]


def test_a_loaded_student_reads_the_same_preferences(data, preferences, tmp_path):
    model = student(epochs=2, distillation=0).fit(replace(data, preferences=preferences))
    loaded = Student.load(_saved(model, tmp_path))
    assert scores(loaded, data, "cat1", "ship2") == scores(model, data, "cat1", "ship2")
    (tmp_path / "corpus.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        Student.load(tmp_path)


def test_a_negative_weight_is_rejected():
    with pytest.raises(SettingsError, match="distillation must be at least 0, but is -1"):
        Student(distillation=-1)


def _saved(model: Student, folder):
    model.save(folder)
    return folder
