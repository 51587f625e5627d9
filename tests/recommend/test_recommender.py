"""A run put to use: lists, cold users, unknown ids, budgets, what stays hidden."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import online_worlds
from mllm_msr.config.loading import load_settings
from mllm_msr.errors import DataError, RunFolderError, SettingsError
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.tables import SUMMARIES
from mllm_msr.types import Item


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("recommending"))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> online_worlds.MoodyBackend:
    made = online_worlds.MoodyBackend()
    monkeypatch.setattr(MllmMsr, "open_backend", lambda self, **_: made)
    return made


def test_the_model_ranks_the_budget_and_the_rest_follows(
    run: Path, backend: online_worlds.MoodyBackend
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
        assert not {item.item_id for item in found.items} & set(model.history("user3"))
        everything = model.recommend("user3", 100, budget=0, exclude_seen=False)
        assert {item.item_id for item in everything.items} == set(model.catalogue)
        assert everything.fallback_reason is None
    assert backend.closed


def test_the_preference_is_brought_up_to_the_whole_history(
    run: Path, backend: online_worlds.MoodyBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        before = model.preference_history("user3")
        assert before["n_items"].max() == len(model.history("user3")) - 1
        model.recommend("user3", 1, budget=1)
        after = model.preference_history("user3")
        assert after["n_items"].max() == len(model.history("user3"))
        full = before.filter(pl.col("n_items") % 3 == 0).select("n_items", "preference")
        assert after.join(full, on=["n_items", "preference"], how="semi").height == full.height


def test_cold_users_get_popular_items_and_the_reason(
    run: Path, backend: online_worlds.MoodyBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        cold = model.recommend("nobody", 4)
        assert (cold.fallback_reason, cold.model_calls, cold.preference) == ("unknown_user", 0, "")
        assert [item.generators for item in cold.items] == [("recent",)] * 4
        assert model.recommend_to(["what?"], 4).fallback_reason == "no_history"
        with pytest.raises(DataError, match=r"user of the run.*'nobody'.*strict"):
            model.recommend("nobody", strict=True)
    assert backend.batches == []


def test_a_given_history_serves_without_its_unknown_items(
    run: Path, backend: online_worlds.MoodyBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        known = model.recommend_to(["item1", "item2"], 3, budget=3)
        mixed = model.recommend_to(["item1", "?", "item2"], 3, budget=3)
    assert known == mixed
    assert known.preference.startswith("The user appears to have a preference")
    assert known.fallback_reason is None


def test_a_new_item_with_a_title_and_a_image_alone_can_be_found(
    run: Path, backend: online_worlds.MoodyBackend, images: list[Path]
) -> None:
    row = dict.fromkeys(SUMMARIES, None) | {
        "item_id": "new", "summary": "A zebra", "image_status": "ok", "flags": ""
    }  # fmt: skip
    with MllmMsr.from_run(run) as model:
        model.catalogue.add(
            Item("new", "Thing 39", "", images[0]), pl.DataFrame([row], schema=dict(SUMMARIES))
        )
        found = model.recommend_to(["item1"], 1, budget=40)
        assert [item.item_id for item in found.items] == ["new"]
        assert model.catalogue.prompt("x", "new").images == (images[0],)


def test_an_item_whose_prompt_fails_counts_as_undecided(
    run: Path, backend: online_worlds.MoodyBackend
) -> None:
    with MllmMsr.from_run(run) as model:
        assert model.score("x", ["item13", "item20"])[0] == 0.5


def test_hidden_targets_are_in_no_history(run: Path) -> None:
    with RunFolder.open(run, read_only=True) as folder:
        rows = folder.read("candidates").filter(split="test", label=1, fold=0)
    with MllmMsr.from_run(run, hide_targets=True) as hidden, MllmMsr.from_run(run) as whole:
        for user, target in rows.select("user_id", "item_id").unique().iter_rows():
            assert whole.history(user) == (*hidden.history(user), target)


def test_what_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="mllm-msr run"):
        MllmMsr.from_run(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="prepare"):
        MllmMsr.from_run(tmp_path / "empty")
    with pytest.raises(SettingsError, match=r"retrieve\.budget"):
        MllmMsr.from_run(run, overrides=["retrieve.budget=-1"])


def test_listing_and_retrieval_load_no_model_library() -> None:
    code = (
        "import sys, mllm_msr.recommend.recommender\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'faiss')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_adapter_is_not_put_on_other_weights_than_its_own(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    with RunFolder.open(copy) as folder, folder.stage("train/0", model="mock:others"):
        pass
    with (
        MllmMsr.from_run(copy, overrides=["train.enabled=true"]) as model,
        pytest.raises(RunFolderError, match=r"fine-tuned from, mock:others, received mock"),
    ):
        model.open_backend()


def test_the_most_popular_items_come_first(run: Path) -> None:
    with MllmMsr.from_run(run) as model:
        found = model.popular_items()
        met = [item_id for user in model.users for item_id in model.history(user)]
        assert set(found) == set(model.catalogue)
        counts = [met.count(item_id) for item_id in found]
        assert counts == sorted(counts, reverse=True)
        assert not model.keeps_images  # a scripted model has no memory


def test_only_a_small_model_on_a_cpu_is_worth_copies(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    with MllmMsr.from_run(run) as model:
        assert model.useful_copies == 1  # a scripted model
        for device, copies in (("cpu", 4), ("cuda:1", 1)):
            settings = load_settings("demo", [f"model.device={device}"], environment={})
            monkeypatch.setattr(model, "settings", settings)
            assert model.useful_copies == copies
