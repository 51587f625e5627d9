"""Settings: merged in order, checked at once, presets that load, a reference that is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.loading import load_settings, override, preset_names, reference
from mllm_msr.errors import SettingsError, UnknownNameError


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {seed: 2, rank: 4}\ninfer: {words: 10}\n")
    environment = {"MLLM_MSR__TRAIN__SEED": "3", "MLLM_MSR__INFER__WORDS": "11", "HOME": "/"}
    settings = load_settings("default", ["train.seed=4"], file=file, environment=environment)
    assert (settings.train.seed, settings.train.rank, settings.infer.words) == (4, 4, 11)


def test_values_are_yaml() -> None:
    settings = load_settings(
        None, ["data.run_folds=[0, 2]", "train.enabled=false", "item_type=film"], environment={}
    )
    assert settings.data.run_folds == (0, 2)
    assert settings.train.enabled is False
    assert settings.item_type == "film"


def test_all_problems_are_reported_at_once() -> None:
    wrong = ["train.sead=1", "train.rank=0", "infer.method=guess", "novalue", "data.folds=x"]
    with pytest.raises(SettingsError) as caught:
        load_settings(None, wrong, environment={})
    message = str(caught.value)
    assert "there is no setting train.sead, did you mean train.seed" in message
    assert "train.rank=0: input should be greater than 0" in message
    assert "infer.method='guess'" in message
    assert "'novalue' is not of the form key=value" in message
    assert "data.folds='x'" in message


def test_arguments_of_data_sets_and_backends_are_checked_too() -> None:
    with pytest.raises(
        SettingsError,
        match=r"there is no setting data\.paht for 'movielens', did you mean data\.path",
    ):
        load_settings(None, ["dataset=movielens", "data.paht=x"], environment={})
    with pytest.raises(SettingsError, match=r"'huggingface' needs the setting model\.checkpoint"):
        load_settings(None, ["model.backend=huggingface"], environment={})
    with pytest.raises(SettingsError, match="received 'popularty'"):
        load_settings(None, ["score.baselines=[popularty]"], environment={})


def test_folds_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"data\.run_folds=\[5\]: there are folds 0 to 4"):
        load_settings(None, ["data.run_folds=[0, 5]"], environment={})


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the settings file .*none\.yaml cannot be read"):
        load_settings(None, file=tmp_path / "none.yaml", environment={})


def test_unknown_preset() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'default'"):
        load_settings("defualt", environment={})


def test_a_dump_reads_back_the_same(tmp_path: Path) -> None:
    settings = load_settings("default", ["train.seed=7"], environment={})
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml())
    assert load_settings(None, file=file, environment={}) == settings


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    assert load_settings(name, ["data.path=x"], environment={}).preset == name


def test_the_promised_presets_are_there() -> None:
    promised = {"default", "paper", "released-code", "demo", "amazon-baby", "amazon-games"}
    assert promised | {"movielens", "microlens"} <= set(preset_names())


@pytest.mark.parametrize("name", ["movielens", "microlens"])
def test_a_hybrid_of_tuned_models_has_them_as_they_are_tuned(name: str) -> None:
    settings = load_settings(name, ["data.path=x"], environment={})
    alone = settings.baselines.arguments("sasrec")
    assert alone
    assert settings.baselines.arguments("hybrid")["settings"] == {"sasrec": alone}
    # TALLRec takes hours there, so it is set and not listed.
    assert {*settings.baselines.plugin_kwargs()} <= {*settings.score.baselines, "tallrec"}


def test_every_setting_is_described() -> None:
    rows = reference()
    assert len(rows) > 40
    assert not [key for key, _, _, description in rows if not description]


def test_later_files_win(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("train: {rank: 4, seed: 1}\n")
    second.write_text("train: {seed: 2}\n")
    settings = load_settings(None, file=[first, second], environment={})
    assert (settings.train.rank, settings.train.seed) == (4, 2)


def test_settings_can_be_overridden_without_their_files():
    settings = load_settings("demo", ["train.rank=4"], environment={})
    changed = override(settings, ["train.seed=7", "infer.block_size=2"])
    assert (changed.train.rank, changed.train.seed, changed.infer.block_size) == (4, 7, 2)
    assert override(changed, ["train.seed=0", "infer.block_size=3"]) == settings
    with pytest.raises(SettingsError, match=r"train\.rank=0"):
        override(settings, ["train.rank=0"])


def test_arguments_of_baselines_are_checked_against_their_constructors():
    settings = load_settings("default", ["baselines.item_knn.decay=0.5"], environment={})
    assert settings.baselines.arguments("item_knn") == {"decay": 0.5}
    assert settings.baselines.arguments("popularity") == {}
    with pytest.raises(SettingsError) as caught:
        load_settings(
            "default",
            [
                "baselines.item_knn.decai=0.5",
                "baselines.item_cnn.decay=1",
                "baselines.popularity=3",
            ],
            environment={},
        )
    message = str(caught.value)
    assert "there is no setting baselines.item_knn.decai for 'item_knn'" in message
    assert "did you mean baselines.item_knn.decay" in message
    assert "did you mean 'item_knn'" in message
    assert "name an argument, as in baselines.popularity.seed=1" in message


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E3", 2000.0), ("-1.5e2", -150.0), ("7", 7), ("7.5", 7.5)],
)
def test_numbers_are_read_as_people_write_them(text: str, value: object) -> None:
    settings = load_settings("default", [f"baselines.sasrec.learning_rate={text}"], environment={})
    found = settings.baselines.arguments("sasrec")["learning_rate"]
    assert (type(found), found) == (type(value), value)


def test_an_argument_of_the_wrong_type_is_named_before_the_run() -> None:
    wrong = [
        "baselines.sasrec.learning_rate=fast",
        "baselines.gru4rec.epochs=many",
        "model.threads=many",
    ]
    with pytest.raises(SettingsError) as refused:
        load_settings("demo", wrong, environment={})
    for setting in wrong:
        key, _, value = setting.partition("=")
        assert f"{key}={value!r}: " in str(refused.value)
