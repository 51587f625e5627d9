"""Vectors of users and items: they know nothing of the training targets, and survive on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mllm_msr.baselines.gru4rec import Gru4Rec
from mllm_msr.baselines.sasrec import SasRec
from mllm_msr.baselines.student import Student
from mllm_msr.config.recommend_settings import PromptOrder, RecommendSettings, UserReading
from mllm_msr.errors import CapabilityError, DamagedFileError, SettingsError, TrainingError
from mllm_msr.interfaces import Recommender, TrainingData
from mllm_msr.ranker.collaborative import (
    CollaborativeVectors,
    VectorModel,
    fit_vectors,
    hide_item,
    insert_vectors,
    load_vectors,
    require_vectors,
)
from mllm_msr.ranker.examples import build_examples, build_prompt, hide_some_items
from mllm_msr.ranker.prompt_record import write_prompt_record
from mllm_msr.ranker.recommender import MllmRecommender
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.tables import CANDIDATES, INTERACTIONS, ITEMS, PREFERENCES
from mllm_msr.types import Item, Prompt, TextPart

N_USERS, N_ITEMS, LENGTH = 24, 20, 9
SETTINGS = RecommendSettings(
    collaborative="sasrec", collaborative_min_interactions=3, reads="history"
)


def fit_small(name: str, data: TrainingData) -> Recommender:
    kind = {"sasrec": SasRec, "gru4rec": Gru4Rec}[name]
    return kind(hidden=8, epochs=2, max_length=8).fit(data)


def interactions() -> pl.DataFrame:
    """Return histories that walk around a circle of items, each in steps of its own."""
    rows = [
        (f"u{user}", f"i{(user + step * (1 + user % 3)) % N_ITEMS}", step, step)
        for user in range(N_USERS)
        for step in range(LENGTH)
    ]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def candidates(table: pl.DataFrame, positions: tuple[int, ...] = (4, LENGTH - 1)) -> pl.DataFrame:
    """Return training candidates of some positions: the target and an item that follows none."""
    rows = [
        (0, "train", "uniform", user, position, item, label)
        for user, target, _, position in table.iter_rows()
        if position in positions
        for item, label in ((target, 1), ("rare", 0))
    ]
    return pl.DataFrame(rows, schema=dict(CANDIDATES), orient="row")


def data(table: pl.DataFrame | None = None) -> TrainingData:
    table = interactions() if table is None else table
    ids = [*(f"i{number}" for number in range(N_ITEMS)), "rare", "new"]
    items = pl.DataFrame(
        {"item_id": ids, "title": [f"Film {one}" for one in ids], "text": "", "image": None},
        schema=dict(ITEMS),
    )
    return TrainingData(table, items, candidates(table), frozenset(table["user_id"]))


@pytest.fixture(scope="module")
def vectors() -> CollaborativeVectors:
    world = data()
    found = fit_vectors(SETTINGS, world, world.candidates, fit=fit_small)
    assert found is not None
    return found


def contents(found: CollaborativeVectors, world: TrainingData) -> Iterator[object]:
    """Yield everything that a prompt can contain before the training targets."""
    targets = candidates(interactions())
    yield found.states(targets, world.interactions)
    for item in world.items["item_id"]:
        yield found.parts((1.0,) * found.n_dims, item)


def changed(user: str, position: int, item: str) -> TrainingData:
    """Return the data with another item in one interaction."""
    here = (pl.col("user_id") == user) & (pl.col("position") == position)
    new = pl.when(here).then(pl.lit(item)).otherwise("item_id")
    return data(interactions().with_columns(item_id=new))


@pytest.mark.parametrize("user", ["u0", "u7"])
def test_vectors_do_not_depend_on_training_targets(
    user: str, vectors: CollaborativeVectors
) -> None:
    """Change the last interaction of a user, which is a target: no vector changes."""
    expected = list(contents(vectors, data()))
    for item in ("i5", "new"):
        world = changed(user, LENGTH - 1, item)
        assert not world.interactions.equals(interactions())
        assert world.candidates.filter(item_id=item, label=1, user_id=user).height >= 1
        found = fit_vectors(SETTINGS, world, world.candidates, fit=fit_small)
        assert found is not None
        assert list(contents(found, world)) == expected


def test_states_do_not_depend_on_the_target_in_the_middle_of_a_history(
    vectors: CollaborativeVectors,
) -> None:
    """Only states after the target read it, as an item of the history."""
    world = changed("u3", 4, "i19")
    found = fit_vectors(SETTINGS, world, world.candidates, fit=fit_small)
    assert found is not None
    before, after = (
        one.states(candidates(interactions()), table)
        for one, table in ((vectors, interactions()), (found, world.interactions))
    )
    assert {key for key in before if before[key] != after[key]} == {("u3", LENGTH - 1)}


def test_vectors_depend_on_all_other_interactions(vectors: CollaborativeVectors) -> None:
    world = changed("u0", 2, "i19")
    found = fit_vectors(SETTINGS, world, world.candidates, fit=fit_small)
    assert found is not None
    assert found.parts((1.0,) * 8, "i1") != vectors.parts((1.0,) * 8, "i1")


def test_a_state_reads_only_the_history_before_its_position(vectors: CollaborativeVectors) -> None:
    world = data()
    later = world.interactions.filter(pl.col("position") < 4)
    targets = pl.DataFrame({"user_id": ["u0", "u5"], "position": [4, 4]})
    whole = vectors.states(targets, world.interactions)
    assert whole == vectors.states(targets, later)
    history = later.filter(user_id="u5")["item_id"].to_list()
    assert whole["u5", 4] == vectors.state(history)


def test_states_of_a_student_are_those_of_the_history_alone() -> None:
    """Written preferences are inferred from the targets, and are unknown to `state`."""
    rows = [
        (f"u{user}", block, 3 * block + 3, f"likes films {user} {block}", True, "")
        for user in range(N_USERS)
        for block in range(2)
    ]
    world = replace(data(), preferences=pl.DataFrame(rows, schema=dict(PREFERENCES), orient="row"))

    def fit(_: str, given: TrainingData) -> Recommender:
        return Student(hidden=8, epochs=2, max_length=8, image_encoder="none").fit(given)

    settings = SETTINGS.model_copy(update={"collaborative": "student"})
    found = fit_vectors(settings, world, world.candidates, fit=fit)
    assert found is not None
    for (user, position), state in found.states(world.candidates, world.interactions).items():
        history = world.interactions.filter(pl.col("position") < position, user_id=user)
        assert state == pytest.approx(found.state(history["item_id"].to_list()), abs=2e-4)


def test_users_and_items_that_are_hardly_known_have_no_vector(
    vectors: CollaborativeVectors,
) -> None:
    assert vectors.state(()) == vectors.state(("rare", "new")) == ()
    known = vectors.state(("i1", "i2"))
    assert [part.vectors for part in vectors.parts(known, "new")] == [(known,), (), ()]
    user, item, match = vectors.parts((), "i1")
    assert (user.vectors, match.vectors) == ((), ())
    assert match.kind == "match"
    assert item.vectors
    # i0 is a target of its users at every occurrence but one, and a target does not count.
    counts = interactions().filter(item_id="i0").height
    world = data()
    rows = candidates(world.interactions, tuple(range(LENGTH)))
    only = rows.filter(item_id="i0", label=1)[1:]
    found = fit_vectors(
        SETTINGS.model_copy(update={"collaborative_min_interactions": 2}),
        world,
        only,
        fit=fit_small,
    )
    assert counts > 2
    assert found is not None
    assert found.parts(known, "i0")[1].vectors == ()


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_the_product_of_vectors_is_the_score_in_standard_deviations(name: str) -> None:
    world = data()
    model = fit_small(name, world)
    found = CollaborativeVectors(model, name=name, min_interactions=1)
    assert isinstance(model, VectorModel)
    ids = list(model.item_table()[0])
    rows = pl.DataFrame({"user_id": "u4", "position": 6, "item_id": ids})
    scores = model.score(rows, world.interactions)["score"].to_numpy()
    state = found.states(rows, world.interactions)["u4", 6]
    products = []
    for item in ids:
        user, own = found.parts(state, item)[2].vectors
        assert (user, len(own)) == (state, found.n_dims + 1)
        products.append(sum(a * b for a, b in zip(user, own, strict=False)) / np.sqrt(len(user)))
    expected = (scores - scores.mean()) / scores.std()
    assert products == pytest.approx(expected, abs=2e-3)


class SixItems:
    """Vector model whose item vectors have the mean zero: a, b, c and their opposites."""

    def item_table(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        rows = np.array([(2, 0), (2, 1), (1, 2)], dtype=np.float32)
        return ["a", "b", "c", "-a", "-b", "-c"], np.concatenate([rows, -rows]), np.full(6, 9.0)


def test_similar_items_have_vectors_of_a_similar_direction() -> None:
    found = CollaborativeVectors(
        SixItems(),  # type: ignore[arg-type]
        name="six",
        min_interactions=1,
    )
    assert found.similar("a", ["-b", "c", "unknown", "b"]) == ["b", "c"]
    assert found.similar("-c", ["b", "-a", "-b"]) == ["-b", "-a"]
    assert found.similar("unknown", ["a"]) == found.similar("a", ["unknown"]) == []


def test_saved_vectors_are_loaded(vectors: CollaborativeVectors, tmp_path: Path) -> None:
    world = data()
    vectors.save(tmp_path)
    loaded = load_vectors(tmp_path, SETTINGS)
    assert loaded is not None
    assert list(contents(loaded, world)) == list(contents(vectors, world))
    assert load_vectors(tmp_path, RecommendSettings()) is None
    assert load_vectors(None, SETTINGS) is None
    (tmp_path / "collaborative" / "model.safetensors").unlink()
    with pytest.raises(DamagedFileError):
        load_vectors(tmp_path, SETTINGS)
    (tmp_path / "collaborative" / "collaborative.json").unlink()
    with pytest.raises(DamagedFileError, match="fine-tune again"):
        load_vectors(tmp_path, SETTINGS)


def test_a_saved_recommender_with_an_adapter_has_its_vectors(
    vectors: CollaborativeVectors, tmp_path: Path
) -> None:
    world, adapter = data(), tmp_path / "adapter"
    vectors.save(adapter)
    write_prompt_record(adapter, SETTINGS)
    options = {"adapter": str(adapter)}
    model = MllmRecommender(backend="mock", options=options, prompt=SETTINGS).fit(world)
    targets = candidates(world.interactions)
    assert model.complete_histories(targets).is_empty()  # the baseline has learned from them
    model.save(tmp_path / "saved")
    assert MllmRecommender.load(tmp_path / "saved").complete_histories(targets).is_empty()


def test_too_few_interactions_are_an_error() -> None:
    few = SETTINGS.model_copy(update={"collaborative_min_interactions": 1000})
    with pytest.raises(TrainingError, match=r"Only 0 items have 1000 interactions"):
        fit_vectors(few, data(), data().candidates, fit=fit_small)


def test_many_targets_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    world = data()
    many = candidates(world.interactions, (2, 3, 4, 5, 6, 7, 8))
    fit_vectors(SETTINGS, world, many, fit=fit_small)
    assert "78% of the interactions are training targets" in caplog.text


def test_baselines_without_vectors_are_rejected() -> None:
    for name in ("popularity", "sasrecc"):
        settings = SETTINGS.model_copy(update={"collaborative": name})
        with pytest.raises(SettingsError, match=f"'{name}' must be none, or a baseline with vec"):
            fit_vectors(settings, data(), data().candidates)
    assert fit_vectors(RecommendSettings(), data(), data().candidates) is None


def test_backends_that_cannot_read_vectors_are_rejected() -> None:
    require_vectors("openai", RecommendSettings())
    require_vectors("demo", SETTINGS)
    with pytest.raises(CapabilityError, match="'openai' cannot read vectors"):
        require_vectors("openai", SETTINGS)


def described(prompt: Prompt) -> str:
    """Return the last turns of a prompt with the kinds of its soft tokens in angle brackets."""
    return "\n".join(
        "".join(
            part.text if isinstance(part, TextPart) else f"<{getattr(part, 'kind', 'image')}>"
            for part in message.parts
        )
        for message in prompt.messages
    )


@pytest.mark.parametrize("reads", ["preference", "history", "both"])
@pytest.mark.parametrize("order", ["item-first", "user-first", "reranker"])
def test_tokens_follow_what_they_belong_to(
    order: PromptOrder, reads: UserReading, vectors: CollaborativeVectors
) -> None:
    """The token of the match follows both others, so that prompts begin as they would alone."""
    preference = None if reads == "history" else "likes owls"
    history = None if reads == "preference" else ("Lantern", "Harbor")
    user = UserInput(preference, history, vectors.state(("i1", "i2")))
    item = Item("i3", "Owl night")
    prompt = build_prompt(user, item, item_type="film", order=order, vectors=vectors)
    text = described(prompt)
    known = "likes owls" if reads == "preference" else "Lantern; Harbor"
    assert f"{known}<user>" in text
    assert "Owl night<item>" in text
    later = "user" if text.index("<user>") > text.index("<item>") else "item"
    assert f"<{later}><match>" in text
    assert [part.kind for part in prompt.vectors].count("match") == 1
    assert len(prompt.vectors) == 3
    if order != "item-first":
        assert later == "item"
    alone = build_prompt(replace(user, state=None), item, item_type="film", order=order)
    without = text.replace("<user>", "").replace("<item>", "").replace("<match>", "")
    assert without == described(alone)
    assert build_prompt(user, item, item_type="film", order=order).vectors == ()


def test_examples_have_the_vectors_of_their_rows(vectors: CollaborativeVectors) -> None:
    world = data()
    examples = list(
        build_examples(
            world.candidates,
            None,
            world.items,
            item_type="film",
            settings=SETTINGS,
            interactions=world.interactions,
            vectors=vectors,
        )
    )
    states = vectors.states(world.candidates, world.interactions)
    for example in examples:
        user, item, match = sorted(
            example.prompt.vectors, key=lambda part: ("user", "item", "match").index(part.kind)
        )
        expected = vectors.parts(states[example.user_id, example.position], example.item_id)
        assert (user, item, match) == expected
    hidden = hide_some_items(examples * 20, seed=0)
    share = sum(a != b for a, b in zip(hidden, examples * 20, strict=True)) / len(hidden)
    known = sum(bool(vectors.parts((1.0,), one.item_id)[1].vectors) for one in examples)
    assert share == pytest.approx(0.1 * known / len(examples), abs=0.02)
    assert hidden == hide_some_items(examples * 20, seed=0)


def test_a_hidden_item_keeps_the_user(vectors: CollaborativeVectors) -> None:
    parts = vectors.parts(vectors.state(("i1",)), "i3")
    prompt = build_prompt("likes owls", Item("i3", "Owl"), item_type="film")
    prompt = insert_vectors(prompt, parts, after_user=1, after_item=2)
    hidden = hide_item(prompt)
    assert {part.kind: part.vectors for part in hidden.vectors} == {
        "user": parts[0].vectors,
        "item": (),
        "match": (),
    }
    assert described(hidden) == described(prompt)


def test_prompts_without_a_title_are_rejected(vectors: CollaborativeVectors) -> None:
    prompt = build_prompt("likes owls", Item("i3", "Owl"), item_type="film")
    parts = vectors.parts((), "i3")
    with pytest.raises(SettingsError, match="no place for the vector of the item"):
        insert_vectors(prompt, parts, after_user=1, after_item=3)
