"""A run with collaborative tokens: training, scoring, recommendation and service agree."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file

from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import ServeSettings
from mllm_msr.errors import SettingsError, StaleStageError
from mllm_msr.models.vector_tokens import FILE
from mllm_msr.pipeline.adapter_export import export_adapter
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.ranker.collaborative import CollaborativeVectors
from mllm_msr.ranker.recommender import MLLM_MSR, MllmRecommender
from mllm_msr.recommend.recommender import MllmMsr
from mllm_msr.serving.engine import OnlineEngine
from mllm_msr.serving.prometheus import Metrics
from mllm_msr.serving.state import ServiceState

OVERRIDES = (
    "data.n_users=24",
    "data.n_items=40",
    "data.n_negatives=5",
    "model.precision=float32",
    "train.rank=4",
    "train.max_steps=4",
    "train.batch_size=8",
    "train.validate_every=2",
    "score.baselines=[popularity]",
    "score.full_users_mllm=2",
    "baselines.sasrec.epochs=2",
    "baselines.sasrec.hidden=8",
    "recommend.collaborative=sasrec",
    "recommend.collaborative_min_interactions=2",
    "retrieve.collaborative=popularity",
    "retrieve.order=model",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collaborative")
    overrides = [*OVERRIDES, f"data.covers={root / 'covers'}"]
    with Pipeline.open(root / "run", load_settings("demo", overrides, environment={})) as run:
        run.run_until("score")
    return root / "run"


@pytest.mark.slow
def test_the_adapter_has_the_projector_and_the_baseline(folder: Path) -> None:
    adapter = folder / "adapter"
    names = load_file(adapter / FILE)
    assert names["networks.user.0.weight"].shape[1] == 8
    assert CollaborativeVectors.load(adapter).n_dims == 8
    assert not [
        name for name in load_file(adapter / "adapter_model.safetensors") if "vector" in name
    ]
    assert '"collaborative":"sasrec"' in (adapter / "prompt.json").read_text(encoding="utf-8")
    assert not [path for path in adapter.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.slow
def test_lists_and_service_give_the_scores_of_the_evaluation(folder: Path, tmp_path: Path) -> None:
    """One user at a time, from the history, as the whole table at once."""
    scored = pl.read_parquet(folder / "scores" / f"{MLLM_MSR}.parquet")
    assert scored["score"].null_count() == 0
    own = scored.filter(pl.col("negatives") == "uniform").partition_by("user_id")[0]
    user, item_ids = own["user_id"][0], own["item_id"].to_list()
    with MllmMsr.from_run(folder, hide_targets=True) as model:
        direct = model.score(user, item_ids)
        calibration = model.models.calibration
        expected = [float(calibration.apply(value)) for value in own["score"]]
        assert direct == pytest.approx(expected, abs=1e-4)
        assert model.score(user, item_ids[1:2]) == pytest.approx(direct[1:2], abs=1e-4)
        assert len(model.recommend(user, 5, budget=8)) == 5
        # An unknown user has no vector, and an anonymous one that of the given history.
        assert len(model.recommend_for_history(model.users.history(user)[:2], 3, budget=4)) == 3

        async def serve() -> list[float | None]:
            engine = OnlineEngine(
                model,
                ServiceState(tmp_path / "state"),
                settings=ServeSettings(copies=1),
                images=tmp_path,
                metrics=Metrics(),
            )
            found = (await engine.score(user, item_ids)).values
            zero_shot = await engine.lists.scorer("zero_shot").score(
                await engine.users.get(user), item_ids
            )
            assert len(zero_shot.values) == len(item_ids)
            assert zero_shot.values != pytest.approx(found, abs=1e-3)
            await engine.stop()
            return [found[item] for item in item_ids]

        assert asyncio.run(serve()) == pytest.approx(direct, abs=1e-4)


@pytest.mark.slow
def test_an_adapter_of_another_run_brings_its_vectors(folder: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    overrides = ["train.enabled=false", f"model.adapter={adapter}"]
    with (
        MllmMsr.from_run(folder, hide_targets=True) as trained,
        MllmMsr.from_run(folder, overrides=overrides, hide_targets=True) as given,
    ):
        user = next(iter(trained.users))
        item_ids = trained.popular_items()[:6]
        assert given.score(user, item_ids) == pytest.approx(trained.score(user, item_ids), abs=1e-4)


@pytest.mark.slow
def test_the_card_of_an_export_says_which_programs_cannot_serve_it(
    folder: Path, tmp_path: Path
) -> None:
    export = export_adapter(folder, tmp_path / "adapter")
    assert {FILE, "collaborative/collaborative.json"} <= set(export.files)
    card = " ".join((export.folder / "README.md").read_text(encoding="utf-8").split())
    assert "servers such as vLLM and SGLang cannot serve this adapter" in card
    assert "They only fit the catalog of the run" in card


@pytest.mark.slow
def test_finished_stages_are_reused_and_other_baselines_are_noticed(folder: Path) -> None:
    with Pipeline.open(folder) as run:
        counts = run.counts("train")
        run.run_until("score")
        assert run.counts("train") == counts
        for change in (
            "baselines.sasrec.hidden=16",
            "recommend.collaborative=none",
            "recommend.collaborative_min_interactions=3",
        ):
            with pytest.raises(StaleStageError):
                run.with_settings([change]).run_stage("train")


@pytest.mark.slow
def test_a_saved_recommender_gives_the_same_scores(folder: Path, tmp_path: Path) -> None:
    with Pipeline.open(folder) as run:
        rows = run.tables.candidates(0, "test").head(30)
        data = run.recommenders.training_data(MLLM_MSR, 0)
        with closing(run.recommenders.fitted(MLLM_MSR, 0)) as model:
            expected = model.score(rows, data.interactions)["score"]
            assert isinstance(model, MllmRecommender)
            assert model.complete_histories(rows).is_empty()
            model.save(tmp_path / "saved")
    with closing(MllmRecommender.load(tmp_path / "saved")) as loaded:
        found = loaded.score(rows, data.interactions)["score"].to_list()
    # The expected scores come from the response cache, computed in other batches.
    assert found == pytest.approx(expected.to_list(), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recommend.collaborative=popularity", "must be none, or a baseline with vectors"),
        ("train.enabled=false", "needs a trained ranker"),
        ("model.backend=mock", "the backend 'mock' cannot read vectors"),
        ("score.model.backend=mock", "the backend 'mock' cannot read vectors"),
    ],
)
def test_settings_that_cannot_work_are_rejected(change: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings("demo", ["recommend.collaborative=sasrec", change], environment={})
