"""Tests for recommending from a finished run: lists, new users, unknown ids, budgets, order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
from PIL import Image

import online_worlds
import worlds
from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import DataError, UsageError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.calibration import Calibration
from mllm_msr.recommend.arguments import RARE_USERS
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.recommend.run_models import RunModels
from mllm_msr.tables import SUMMARIES
from mllm_msr.types import ChoiceScores, Item, Prompt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("recommender"))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> online_worlds.FakeBackend:
    fake = online_worlds.FakeBackend()
    monkeypatch.setattr(RunModels, "open_ranker", lambda self, **_: fake)
    return fake


def test_scored_candidates_come_first_and_the_others_follow(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        found = model.recommend("user3", 12, budget=5)
        assert backend.batches == [5]
        assert (found.model_calls, found.fallback_reason) == (5, None)
        scores = [item.score for item in found.items]
        assert [score is None for score in scores] == [False] * 5 + [True] * 7
        numbers = [int(item.item_id.removeprefix("item")) for item in found.items[:5]]
        assert numbers == sorted(numbers, reverse=True)
        assert [item.rank for item in found.items] == list(range(1, 13))
        assert not {item.item_id for item in found.items} & set(model.users.history("user3"))
        everything = model.recommend("user3", 100, budget=0, exclude_seen=False)
        assert {item.item_id for item in everything.items} == set(model.catalog)
        assert everything.fallback_reason is None
    assert backend.closed


def test_preference_is_updated_to_the_full_history(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        before = model.users.preference_history("user3")
        assert before["n_items"].max() == len(model.users.history("user3")) - 1
        model.recommend("user3", 1, budget=1)
        after = model.users.preference_history("user3")
        assert after["n_items"].max() == len(model.users.history("user3"))
        full = before.filter(pl.col("n_items") % 3 == 0).select("n_items", "preference")
        assert after.join(full, on=["n_items", "preference"], how="semi").height == full.height


def test_new_users_get_popular_items_and_the_reason(
    run: Path, backend: online_worlds.FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with MllmMsr.from_run(run) as model:
        new = model.recommend("unknown", 4)
        assert caplog.messages == [
            f"Unknown user 'unknown'. Unknown users get recently popular items. {RARE_USERS}"
        ]
        assert (new.fallback_reason, new.model_calls, new.preference) == ("unknown_user", 0, "")
        assert [item.generators for item in new.items] == [("recent",)] * 4
        assert model.recommend_for_history([], 4).fallback_reason == "no_history"
        with pytest.raises(DataError, match="Unknown user 'unknown'"):
            model.recommend("unknown", strict=True)
    assert backend.batches == []


def test_unknown_items_are_an_error_that_lists_them(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        known = model.recommend_for_history(("item1", "item2"), 3, budget=3)
        with pytest.raises(DataError, match=r"2 items are not in the catalog: '\?', ' item2'\."):
            model.recommend_for_history(["item1", "?", " item2", "?"], 3, budget=3)
        with pytest.raises(DataError, match=r"1 item is not in the catalog: 'nope'"):
            model.score("user3", ["item1", "nope"])
    assert known.preference.startswith("The user appears to have a preference")
    assert known.fallback_reason is None


def test_added_item_with_title_and_image_is_recommended(
    run: Path, backend: online_worlds.FakeBackend, images: list[Path]
) -> None:
    row = dict.fromkeys(SUMMARIES, None) | {
        "item_id": "new", "summary": "A zebra", "image_status": "ok", "flags": ""
    }  # fmt: skip
    with MllmMsr.from_run(run) as model:
        model.catalog.add(
            Item("new", "Thing 39", "", images[0]), pl.DataFrame([row], schema=dict(SUMMARIES))
        )
        found = model.recommend_for_history(["item1"], 1, budget=40)
        assert [item.item_id for item in found.items] == ["new"]
        assert model.catalog.prompt("x", "new").images == (images[0],)


def test_failed_prompt_has_no_score_and_a_reason(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        failed, scored = model.score("user3", ["item13", "item20"])
        assert failed is None
        assert scored is not None
        found = model.recommend_for_history(["item1"], 30, budget=30)
        (item,) = (one for one in found.items if one.item_id == "item13")
        assert (item.score, item.reason, item.rank) == (None, "item 13 fails", len(found.items))
        assert found.model_calls == len(found.items) - 1
        assert all(one.reason == "" for one in found.items if one.item_id != "item13")


def test_list_without_any_score_has_a_reason(
    run: Path, backend: online_worlds.FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prompts: Iterable[Prompt], _: object) -> Iterator[tuple[int, ChoiceScores]]:
        for index, _prompt in enumerate(prompts):
            yield index, ChoiceScores((), error="out of memory")

    monkeypatch.setattr(backend, "score", fail)
    with MllmMsr.from_run(run) as model:
        found = model.recommend("user3", 4, budget=3)
    assert found.fallback_reason == "model_failed"
    assert [item.score for item in found.items] == [None] * 4


@pytest.mark.parametrize("damage", ["removed", "emptied", "flipped", "folder", "pipe", "link"])
def test_a_damaged_image_is_not_shown_and_counted(
    run: Path, backend: online_worlds.FakeBackend, tmp_path: Path, damage: str
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    with MllmMsr.from_run(moved) as model:
        item_id = next(one for one in model.catalog if model.catalog.item(one).image)
        path = model.catalog.item(item_id).image
        assert path is not None
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage == "pipe":
            os.mkfifo(path)
        elif damage == "link":
            Image.new("RGB", (16, 16), "red").save(tmp_path / "other.png")
            path.symlink_to(tmp_path / "other.png")
        elif damage != "removed":
            content[len(content) // 2] ^= 1
            path.write_bytes(b"" if damage == "emptied" else content)
        assert model.catalog.item(item_id).image is None
        assert model.catalog.prompt("x", item_id).images == ()
        assert model.catalog.lacks_image(item_id)
        found = model.recommend("user3", 30, budget=30, exclude_seen=False)
        alike = [one for one in model.catalog if model.catalog.lacks_image(one)]
        assert found.without_image == len(alike) >= 1


def test_items_are_scored_for_a_user_by_id(run: Path, backend: online_worlds.FakeBackend) -> None:
    with MllmMsr.from_run(run) as model:
        listed = model.recommend("user3", 40, budget=40, exclude_seen=False)
        expected = {item.item_id: item.score for item in listed.items}
        item_ids = ["item20", "item1", "item20"]
        assert model.score("user3", item_ids) == [expected[item_id] for item_id in item_ids]
        # The preference is the one of the full history, as in recommend().
        with MllmMsr.from_run(run) as fresh:
            assert fresh.score("user3", ["item20"]) == [expected["item20"]]
            history = fresh.users.history("user3")
            assert fresh.users.preference_history("user3")["n_items"].max() == len(history)
        with pytest.raises(DataError, match="Unknown user 'The user likes tea'"):
            model.score("The user likes tea", ["item20"])


def test_wrong_arguments_are_errors(run: Path, backend: online_worlds.FakeBackend) -> None:
    with MllmMsr.from_run(run) as model:
        for call in (
            lambda: model.recommend(5),
            lambda: model.recommend([3]),
            lambda: model.recommend({"user3"}),
            lambda: model.recommend("user3", k=-1),
            lambda: model.recommend("user3", k=0),
            lambda: model.recommend("user3", budget=-1),
            lambda: model.recommend_for_history("item1"),
            lambda: model.recommend_for_history([1, 2]),
            lambda: model.recommend_for_history(["item1"], k=2.5),
            lambda: model.score("user3", "item1"),
            lambda: model.score(3, ["item1"]),
        ):
            with pytest.raises(UsageError):
                call()
    assert backend.batches == []


def test_settings_of_a_run_can_be_a_mapping(run: Path) -> None:
    with MllmMsr.from_run(str(run), overrides={"retrieve": {"budget": 7}}) as model:
        assert model.settings.retrieve.budget == 7


def test_importing_the_recommender_loads_no_model_library() -> None:
    code = (
        "import sys, mllm_msr.recommend.recommender\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'faiss')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_most_popular_items_come_first(run: Path) -> None:
    with MllmMsr.from_run(run) as model:
        popular = model.popular_items()
        seen = [item_id for user in model.users for item_id in model.users.history(user)]
        assert set(popular) == set(model.catalog)
        counts = [seen.count(item_id) for item_id in popular]
        assert counts == sorted(counts, reverse=True)


HISTORY: Final = (
    "recommend.reads=history",
    "recommend.order=user-first",
    "recommend.history_items=2",
    "infer.enabled=false",
    "summarize.enabled=false",
)


def test_a_run_without_written_texts_reads_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither preferences nor summaries are generated, for a run and for its recommendations."""
    monkeypatch.setattr(MockBackend, "generate", lambda *_: pytest.fail("a model generated a text"))
    data = worlds.write_files(tmp_path / "data")
    overrides = [*HISTORY, "score.baselines=[]", "retrieve.collaborative=popularity"]
    settings = load_settings("default", worlds.settings(data, *overrides), environment={})
    with Pipeline.open(tmp_path / "run", settings) as pipeline:
        pipeline.run_all()
        assert not {"summarize", "infer"} & set(pipeline.run.stages)
        assert "preferences" not in pipeline.run.stages["score/zero_shot"]["inputs"]
    shown: list[str] = []
    probabilities = MockBackend._probabilities

    def spy(backend: MockBackend, prompt: Prompt, n_choices: int) -> Any:
        shown.append(prompt.text)
        return probabilities(backend, prompt, n_choices)

    monkeypatch.setattr(MockBackend, "_probabilities", spy)
    with MllmMsr.from_run(tmp_path / "run") as model:
        latest = model.users.history("user3")[-2:]
        expected = "; ".join(f"Thing {one.removeprefix('item')}" for one in reversed(latest))
        found = model.recommend("user3", 4, budget=3)
        assert (found.model_calls, found.fallback_reason, found.preference) == (3, None, "")
        assert all(f'the latest first: "{expected}"' in text for text in shown)
        assert model.recommend("nobody", 2, budget=2).fallback_reason == "unknown_user"
        given = model.recommend_for_history(list(latest), 2, budget=2)
        assert given.fallback_reason is None
        assert len(model.score("user3", ["item1", "item2"])) == 2
        similar = {title for item in found.items for title in item.matches}
        assert similar <= {f"Thing {one.removeprefix('item')}" for one in latest}


def test_scores_in_lists_are_calibrated_without_another_order(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        plain = model.recommend("user3", 6, budget=6)
    with MllmMsr.from_run(run) as model:
        model.models.calibration = Calibration(temperature=2.0, bias=-1.0)
        found = model.recommend("user3", 6, budget=6)
    assert [item.item_id for item in found.items] == [item.item_id for item in plain.items]
    expected = Calibration(2.0, -1.0).apply([item.score or 0 for item in plain.items])
    assert [item.score for item in found.items] == pytest.approx(list(expected))


def test_several_users_get_the_lists_of_each_user_with_one_call_of_the_model(
    run: Path, backend: online_worlds.FakeBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        single = [model.recommend(user_id, 4, budget=3) for user_id in ("user3", "user1")]
    inferred = []
    with MllmMsr.from_run(run) as model:
        infer = model._infer
        model._infer = lambda *rest: inferred.append(rest) or infer(*rest)
        backend.batches.clear()
        batch = model.recommend(["user3", "nobody", "user1", "user3"], 4, budget=3)
        assert backend.batches == [6]
        assert len(inferred) == 1
    assert [found.user_id for found in batch] == ["user3", "nobody", "user1"]
    assert [batch["user3"], batch["user1"]] == single
    assert batch["nobody"].fallback_reason == "unknown_user"
    frame = batch.to_polars()
    assert frame["rank"].to_list() == [1, 2, 3, 4] * 3
    assert frame["title"].null_count() == 0


@pytest.mark.parametrize(
    "convert", [pl.DataFrame.lazy, pl.DataFrame.to_pandas, lambda frame: frame]
)
def test_users_histories_and_items_may_be_frames(
    run: Path, backend: online_worlds.FakeBackend, convert
) -> None:
    users = pl.DataFrame({"user_id": ["user3", "user1"]})
    items = pl.DataFrame({"item_id": ["item2", "item1"], "timestamp": [5, 4]})
    with MllmMsr.from_run(run) as model:
        batch = model.recommend(convert(users), 2, budget=2)
        assert [found.user_id for found in batch] == ["user3", "user1"]
        given = model.recommend_for_history(convert(items), 2, budget=2)
        assert given == model.recommend_for_history(["item1", "item2"], 2, budget=2)
        assert model.score("user3", convert(items)) == model.score("user3", ["item1", "item2"])


def test_the_recommender_describes_itself(run: Path) -> None:
    with MllmMsr.from_run(run) as model:
        assert re.match(r"MllmMsr\(dataset 'files': \d+ users, \d+ items; model", repr(model))
        assert repr(model.catalog) == f"ItemCatalog({len(model.catalog)} items)"
        assert repr(model.users) == f"UserProfiles({len(model.users)} users)"
