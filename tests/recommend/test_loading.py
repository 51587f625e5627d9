"""Tests for loading a run: missing stages, hidden targets, cached vectors and baselines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

import online_worlds
from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.baselines.sasrec import SasRec
from mllm_msr.config.loading import load_settings
from mllm_msr.config.run_settings import with_checksum
from mllm_msr.errors import (
    BackendError,
    DataError,
    RunFolderError,
    SettingsError,
    StaleStageError,
    UsageError,
)
from mllm_msr.interfaces import TrainingData
from mllm_msr.models.encoders import lsa
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.recommend.loading import load_run
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.storage.run_folder import RunFolder

SASREC = (
    "retrieve.collaborative=sasrec",
    "baselines.sasrec.epochs=1",
    "baselines.sasrec.hidden=8",
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("loading"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what is computed, in order."""
    calls: list[str] = []
    fit, encode, directions = SasRec.fit, LsaEncoder.encode, lsa.main_directions

    def recorded_fit(self: SasRec, data: TrainingData) -> SasRec:
        calls.append("fit")
        return fit(self, data)

    def recorded_encode(self: LsaEncoder, texts: Sequence[str]) -> Vectors:
        calls.append("encode")
        return encode(self, texts)

    def recorded_directions(*arguments: object) -> Vectors:
        calls.append("directions")
        return directions(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SasRec, "fit", recorded_fit)
    monkeypatch.setattr(LsaEncoder, "encode", recorded_encode)
    monkeypatch.setattr(lsa, "main_directions", recorded_directions)
    return calls


def lists_of(model: MllmMsr) -> list[object]:
    return [model.recommend(user_id, 12, budget=0) for user_id in list(model.users)[:4]]


def test_second_start_reuses_vectors_and_baseline(run: Path, computed: list[str]) -> None:
    with MllmMsr.from_run(run, overrides=SASREC) as model:
        assert sorted(computed) == ["directions", "encode", "fit"]
        first = lists_of(model)
    computed.clear()
    with MllmMsr.from_run(run, overrides=SASREC) as model:
        assert computed == []
        assert lists_of(model) == first


@pytest.mark.parametrize(
    ("overrides", "hide_targets"),
    [
        ((*SASREC, "baselines.sasrec.hidden=16"), False),
        ((*SASREC, "baselines.content=text"), False),
        (SASREC, True),
    ],
)
def test_other_settings_or_histories_fit_the_baseline_again(
    run: Path, computed: list[str], overrides: tuple[str, ...], hide_targets: bool
) -> None:
    load_run(run, overrides=SASREC)
    computed.clear()
    load_run(run, overrides=overrides, hide_targets=hide_targets)
    assert computed == ["fit"]


def test_hidden_targets_are_in_no_history(run: Path) -> None:
    with RunFolder.open(run, read_only=True) as folder:
        rows = folder.read("candidates").filter(split="test", label=1, fold=0)
    hidden, full = load_run(run, hide_targets=True).users, load_run(run).users
    for user, target in rows.select("user_id", "item_id").unique().iter_rows():
        assert full.history(user) == (*hidden.history(user), target)


def test_missing_stages_and_invalid_settings_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"There is no run folder at .*nothing"):
        load_run(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="empty does not contain a run"):
        load_run(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
    with Pipeline.open(tmp_path / "new", load_settings("demo", environment={})) as pipeline:
        pipeline.run.write_text("config.yaml", with_checksum(pipeline.settings.to_yaml()))
    with pytest.raises(RunFolderError, match="Run the stage 'prepare' first"):
        load_run(tmp_path / "new")
    with pytest.raises(SettingsError, match="A preset cannot replace"):
        load_run(run, overrides=["preset=demo"])
    with pytest.raises(SettingsError, match=r"retrieve\.budget"):
        load_run(run, overrides=["retrieve.budget=-1"])
    with pytest.raises(UsageError, match="The run has no fold 9"):
        load_run(run, fold=9, hide_targets=True)  # it would hide nothing


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("data.seed=9", "prepare"),
        ("images.max_side=99", "prepare"),
        ("summarize.words=9", "summarize"),
        ("infer.words=9", "infer"),
    ],
)
def test_settings_of_finished_stages_are_not_ignored(run: Path, change: str, stage: str) -> None:
    with pytest.raises(StaleStageError, match=f"The stage '{stage}' was finished with other"):
        load_run(run, overrides=[change])


def test_groups_that_are_not_read_are_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_run(run, overrides=["retrieve.budget=3", "executor.name=ray", "evaluate.ks=[3]"])
    assert [message for message in caplog.messages if "no effect" in message] == [
        f"Settings of the group {group} have no effect on recommendations."
        for group in ("evaluate", "executor")
    ]


def test_members_of_an_ensemble_have_the_settings_of_their_sections(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    fit = SasRec.fit

    def recorded(self: SasRec, data: TrainingData) -> SasRec:
        fitted.append(self.hidden)
        return fit(self, data)

    monkeypatch.setattr(SasRec, "fit", recorded)
    hybrid = [
        "retrieve.collaborative=hybrid",
        "baselines.hybrid.members=[sasrec, popularity]",
        "baselines.sasrec.epochs=1",
    ]
    for hidden in (8, 8, 16):  # the second start reuses the fitted ensemble
        with MllmMsr.from_run(run, overrides=[*hybrid, f"baselines.sasrec.hidden={hidden}"]):
            pass
    assert fitted == [8, 8, 16, 16]  # a copy without held-out targets, and the model


def test_scored_baselines_are_loaded_as_they_were_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_run(online_worlds.make_run(tmp_path / "unscored")).baselines == {}
    run = online_worlds.make_run(tmp_path, baselines=("popularity", "hybrid", "item_knn"))
    # Fitting again would not find this method.
    monkeypatch.setattr(ItemKnn, "fit", None)
    loaded = load_run(run)
    baselines = loaded.baselines
    assert list(baselines) == ["item_knn", "popularity"]  # no ensembles
    assert [one.label for one in baselines.values()] == ["Item-kNN", "Popularity"]
    assert len({one.version for one in baselines.values()}) == 2
    with RunFolder.open(run, read_only=True) as folder:
        test = folder.read("candidates").filter(split="test", fold=loaded.fold)
    scores = baselines["item_knn"].fitted().score(test.head(20), _interactions(run))
    assert scores["score"].is_not_null().all()


def _interactions(run: Path) -> pl.DataFrame:
    with RunFolder.open(run, read_only=True) as folder:
        return folder.read("interactions")


def test_a_generator_that_cannot_be_fitted_is_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ItemKnn, data: TrainingData) -> ItemKnn:
        raise DataError("There are too few items.")

    monkeypatch.setattr(ItemKnn, "fit", fail)
    knn = ["retrieve.collaborative=item_knn"]
    with MllmMsr.from_run(run, overrides=knn) as model:
        assert set(model.retriever.generators) == {"preference", "recent"}
        assert len(model.recommend("user0", 3)) == 3
    (message,) = [each for each in caplog.messages if "candidate generator" in each]
    assert message == (
        "The candidate generator collaborative failed and is left out of lists: There are too few "
        "items."
    )
    with pytest.raises(DataError, match="too few items"):  # an evaluation needs all of them
        MllmMsr.from_run(run, overrides=knn, hide_targets=True)
    with pytest.raises(BackendError, match=r"All candidate generators failed.*too few items"):
        MllmMsr.from_run(run, overrides=["retrieve.generators=[item_knn]"])
