"""A second start finds what the first one made; whatever it followed from makes it anew."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import online_worlds
from mllm_msr.baselines.sasrec import SasRec
from mllm_msr.interfaces import TrainingData
from mllm_msr.models.encoders import lsa
from mllm_msr.models.encoders.base import Vectors
from mllm_msr.models.encoders.lsa import LsaEncoder
from mllm_msr.recommend.recommender import MllmMsr

SASREC = (
    "retrieve.collaborative=sasrec",
    "baselines.sasrec.epochs=1",
    "baselines.sasrec.hidden=8",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return online_worlds.make_run(tmp_path_factory.mktemp("proposing"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed, in order."""
    done: list[str] = []
    fit, encode, learn = SasRec.fit, LsaEncoder.encode, lsa.main_directions

    def fitting(self: SasRec, data: TrainingData) -> SasRec:
        done.append("fit")
        return fit(self, data)

    def encoding(self: LsaEncoder, texts: Sequence[str]) -> Vectors:
        done.append("encode")
        return encode(self, texts)

    def learning(*arguments: object) -> Vectors:
        done.append("directions")
        return learn(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SasRec, "fit", fitting)
    monkeypatch.setattr(LsaEncoder, "encode", encoding)
    monkeypatch.setattr(lsa, "main_directions", learning)
    return done


def lists(model: MllmMsr) -> list[object]:
    return [model.recommend(user_id, 12, budget=0) for user_id in model.users[:4]]


def test_a_second_start_computes_neither_vectors_nor_a_model(run: Path, work: list[str]) -> None:
    with MllmMsr.from_run(run, overrides=SASREC) as model:
        assert sorted(work) == ["directions", "encode", "fit"]
        first = lists(model)
    work.clear()
    with MllmMsr.from_run(run, overrides=SASREC) as model:
        assert work == []
        assert lists(model) == first


@pytest.mark.parametrize(
    ("overrides", "hide_targets"),
    [((*SASREC, "baselines.sasrec.hidden=16"), False), (SASREC, True)],
)
def test_other_settings_or_other_histories_fit_anew(
    run: Path, work: list[str], overrides: tuple[str, ...], hide_targets: bool
) -> None:
    MllmMsr.from_run(run, overrides=SASREC).close()
    work.clear()
    MllmMsr.from_run(run, overrides=overrides, hide_targets=hide_targets).close()
    assert work == ["fit"]
