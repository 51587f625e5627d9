"""Loading of settings: precedence of sources, validation, presets and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.loading import describe_preset, load_settings, override, preset_names
from mllm_msr.errors import SettingsError, UnknownNameError


def test_later_sources_take_precedence(tmp_path: Path) -> None:
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


def test_all_problems_are_reported_together() -> None:
    wrong = ["train.learning_rat=1", "train.rank=-1", "infer.method=guess", "novalue"]
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [*wrong, "data.folds=x", "serve.copies=["], environment={})
    assert set(caught.value.problems) == {
        "Unknown setting 'train.learning_rat'. Did you mean 'train.learning_rate'?",
        "train.rank=-1: must be greater than 0.",
        "infer.method='guess': must be 'recurrent' or 'direct'.",
        "'novalue' does not have the form key=value.",
        "data.folds='x': must be an integer.",
        "serve.copies='[': must be valid YAML.",
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.devices=many", "train.devices='many': must be an integer or 'auto'."),
        ("data.negatives=[hard]", "data.negatives='hard': must be 'uniform' or 'popularity'."),
        ("evaluate.ks=x", "evaluate.ks='x': must be an integer."),
        ("model=demo", "model='demo': must be a mapping."),
        ("infer.model.backend=3", "infer.model.backend=3: must be a string."),
        ("trian.rank=1", "Unknown setting 'trian'. Did you mean 'train'?"),
        ('item_type=a"b', "item_type is "),
    ],
)
def test_a_problem_names_the_setting_its_value_and_the_rule(override: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, [override], environment={})
    assert str(caught.value).startswith(problem)


def test_arguments_of_datasets_and_backends_are_validated() -> None:
    with pytest.raises(
        SettingsError,
        match=r"Unknown setting 'data\.paht' of the dataset 'movielens'\. "
        r"Did you mean 'data\.path'\?",
    ):
        load_settings(None, ["dataset=movielens", "data.paht=x"], environment={})
    with pytest.raises(
        SettingsError, match=r"backend 'huggingface' requires the setting 'model\.checkpoint'"
    ):
        load_settings(None, ["model.backend=huggingface"], environment={})
    with pytest.raises(SettingsError, match="Unknown baseline 'popularty'"):
        load_settings(None, ["score.baselines=[popularty]"], environment={})


def test_another_backend_replaces_the_arguments_of_the_presets_backend(tmp_path: Path) -> None:
    assert "precision" in load_settings("demo", environment={}).model.plugin_kwargs()
    file = tmp_path / "mine.yaml"
    file.write_text("model: {backend: mock}\n")
    for settings in (
        load_settings("demo", ["model.backend=mock"], environment={}),
        load_settings("demo", environment={"MLLM_MSR__MODEL__BACKEND": "mock"}),
        load_settings("demo", file=file, environment={}),
        override(load_settings("demo", environment={}), ["model.backend=mock"]),
    ):
        assert settings.model.backend == "mock"
        assert settings.model.plugin_kwargs() == {}


def test_another_backend_of_one_stage_replaces_its_arguments(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("infer: {model: {backend: huggingface, checkpoint: org/model, revision: main}}")
    changes = ["infer.model.backend=openai", "infer.model.concurrency=2"]
    settings = load_settings(None, changes, file=file, environment={})
    assert settings.infer.model is not None
    # Both backends take `checkpoint`, but only the replaced one takes `revision`.
    assert settings.infer.model.plugin_kwargs() == {"checkpoint": "org/model", "concurrency": 2}


def test_another_dataset_replaces_the_arguments_of_the_presets_dataset() -> None:
    settings = load_settings("amazon-baby", ["dataset=files", "data.path=x"], environment={})
    assert settings.data.plugin_kwargs() == {"path": "x"}
    assert settings.images.download


def test_arguments_of_the_replaced_plugin_are_errors_if_they_come_later() -> None:
    changes = ["model.precision=auto", "model.backend=mock"]
    problem = r"Unknown setting 'model\.precision' of the backend 'mock'"
    with pytest.raises(SettingsError, match=problem):
        load_settings("demo", changes, environment={})
    with pytest.raises(SettingsError, match=problem):
        load_settings("demo", [changes[0]], environment={"MLLM_MSR__MODEL__BACKEND": "mock"})


def test_settings_that_no_plugin_takes_remain_errors(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {precisoin: auto}\n")
    with pytest.raises(SettingsError, match=r"Unknown setting 'model\.precisoin'"):
        load_settings("demo", ["model.backend=mock"], file=file, environment={})
    with pytest.raises(SettingsError, match="Unknown backend 'mokc'"):
        load_settings("demo", ["model.backend=mokc"], environment={})
    with pytest.raises(SettingsError, match=r"model='mock': must be a mapping"):
        load_settings("demo", ["model=mock"], environment={})


def test_folds_that_do_not_exist_are_rejected() -> None:
    with pytest.raises(SettingsError, match=r"data\.run_folds=\[5\]: must be at most 4"):
        load_settings(None, ["data.run_folds=[0, 5]"], environment={})


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Cannot read the settings file .*none\.yaml: "):
        load_settings(None, file=tmp_path / "none.yaml", environment={})
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(SettingsError, match=r"list\.yaml does not contain a mapping"):
        load_settings(None, file=tmp_path / "list.yaml", environment={})


def test_unknown_presets_are_rejected_with_a_suggestion() -> None:
    with pytest.raises(
        UnknownNameError,
        match=r"Unknown preset 'defualt'\. Did you mean 'default'\? Available: amazon-baby, ",
    ):
        load_settings("defualt", environment={})


def test_a_preset_can_be_selected_like_a_setting() -> None:
    applied = load_settings("default", ["train.seed=7", "preset=demo"], environment={})
    assert applied == load_settings("demo", ["train.seed=7"], environment={})
    assert applied != load_settings("default", ["train.seed=7"], environment={})
    assert load_settings("demo", ["preset=demo"], environment={}).preset == "demo"
    with pytest.raises(SettingsError, match="Several presets are selected: paper, demo"):
        load_settings("demo", ["preset=paper"], environment={})


def test_a_settings_file_can_select_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: demo\ntrain: {seed: 7}\n")
    expected = load_settings("demo", ["train.seed=7"], environment={})
    assert load_settings("default", file=file, environment={}) == expected
    other = load_settings("movielens", ["data.path=x"], file=file, environment={})
    assert (other.preset, other.dataset, other.train.seed) == ("movielens", "movielens", 7)


@pytest.mark.parametrize("name", ["../../etc/passwd", "demo.yaml", "", "/etc/passwd"])
def test_presets_are_names_and_never_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Unknown preset"):
        load_settings("default", [f"preset={name}"], environment={})
    file = tmp_path / "mine.yaml"
    file.write_text(f"preset: '{name}'\n")
    for preset in ("default", None):
        with pytest.raises((UnknownNameError, SettingsError), match="Unknown preset"):
            load_settings(preset, file=file, environment={})


def test_a_preset_in_the_environment_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"MLLM_MSR__PRESET is set\. Use the option --preset"):
        load_settings("default", environment={"MLLM_MSR__PRESET": "demo"})


def test_settings_survive_a_round_trip_through_yaml(tmp_path: Path) -> None:
    settings = load_settings("default", ["train.seed=7"], environment={})
    file = tmp_path / "config.yaml"
    file.write_text(settings.to_yaml())
    assert load_settings(None, file=file, environment={}) == settings


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    path = [] if name in {"default", "demo"} else ["data.path=x"]
    assert load_settings(name, path, environment={}).preset == name


def test_the_documented_presets_exist() -> None:
    documented = {"default", "paper", "released-code", "demo", "amazon-baby", "amazon-games"}
    assert documented | {"movielens", "microlens"} <= set(preset_names())


@pytest.mark.parametrize("name", ["movielens", "microlens"])
def test_presets_configure_the_baselines_that_they_score(name: str) -> None:
    settings = load_settings(name, ["data.path=x"], environment={})
    # TALLRec takes hours on these datasets, and the student needs scores of a fine-tuned model
    # (`mllm-msr distill`), so both are configured but not scored by default.
    scored = {*settings.score.baselines, "student", "tallrec"}
    assert {*settings.baselines.plugin_kwargs()} <= scored


def test_later_files_take_precedence(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("train: {rank: 4, seed: 1}\n")
    second.write_text("train: {seed: 2}\n")
    settings = load_settings(None, file=[first, second], environment={})
    assert (settings.train.rank, settings.train.seed) == (4, 2)


def test_override_changes_only_the_given_settings() -> None:
    settings = load_settings("demo", ["train.rank=4"], environment={})
    changed = override(settings, ["train.seed=7", "infer.block_size=2"])
    assert (changed.train.rank, changed.train.seed, changed.infer.block_size) == (4, 7, 2)
    assert override(changed, ["train.seed=0", "infer.block_size=3"]) == settings
    with pytest.raises(SettingsError, match=r"train\.rank=0"):
        override(settings, ["train.rank=0"])


def test_arguments_of_baselines_are_validated_against_their_constructors() -> None:
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
    assert "Unknown setting 'baselines.item_knn.decai' of the baseline 'item_knn'" in message
    assert "Did you mean 'baselines.item_knn.decay'?" in message
    assert "Unknown baseline 'item_cnn'. Did you mean 'item_knn'?" in message
    assert "baselines.popularity=3: must be a mapping of arguments" in message


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E3", 2000.0), ("-1.5e2", -150.0), ("7", 7), ("7.5", 7.5)],
)
def test_numbers_in_scientific_notation_need_no_dot(text: str, value: object) -> None:
    movies = ["dataset=movielens", "data.path=x", f"data.min_rating={text}"]
    settings = load_settings("default", movies, environment={})
    found = settings.data.plugin_kwargs()["min_rating"]
    assert (type(found), found) == (type(value), value)


def test_arguments_of_the_wrong_type_are_rejected() -> None:
    wrong = [
        "baselines.sasrec.learning_rate=fast",
        "baselines.gru4rec.epochs=many",
        "model.threads=many",
    ]
    with pytest.raises(SettingsError) as caught:
        load_settings("demo", wrong, environment={})
    for setting in wrong:
        key, _, value = setting.partition("=")
        assert f"{key}={value!r}: " in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "%d/%m/%Y %H:%M",
        "|",
        ">x",
        "@user",
        "#id",
        ",",
        ":",
        "::",
        "yes",
        "1e5",
        "2024-01-01",
        "[id]",
    ],
)
def test_arguments_that_are_texts_are_taken_as_they_are(value: str) -> None:
    # Plugins may be selected after their arguments.
    arguments = [f"data.user_column={value}", "data.path=x", "dataset=files"]
    settings = load_settings("default", arguments, environment={})
    assert settings.data.plugin_kwargs()["user_column"] == value
    variables = {"MLLM_MSR__DATA__USER_COLUMN": value, "MLLM_MSR__DATASET": "files"}
    settings = load_settings("default", ["data.path=x"], environment=variables)
    assert settings.data.plugin_kwargs()["user_column"] == value


@pytest.mark.parametrize(
    ("source", "separator"),
    [
        ("null", None),
        ("", None),
        ('"null"', "null"),
        ("'\"'", '"'),
        ('"\\x01"', "\x01"),
        ("'", "'"),
    ],
)
def test_texts_may_be_null_or_in_quotes(source: str, separator: str | None) -> None:
    arguments = ["dataset=files", "data.path=x", f"data.separator={source}"]
    settings = load_settings("default", arguments, environment={})
    assert settings.data.plugin_kwargs()["separator"] == separator


def test_an_argument_of_one_baseline_does_not_change_another() -> None:
    # The preset gives both the same values with a YAML anchor.
    change = ["baselines.sasrec_f.epochs=3", "baselines.gru4rec_f.learning_rate=0.5"]
    settings = load_settings("microlens", ["data.path=x", *change], environment={})
    before = load_settings("microlens", ["data.path=x"], environment={})
    for name in ("sasrec", "gru4rec"):
        assert settings.baselines.arguments(name) == before.baselines.arguments(name)
    assert settings.baselines.arguments("sasrec_f")["epochs"] == 3
    assert settings.baselines.arguments("gru4rec_f")["learning_rate"] == 0.5


def test_sections_of_a_file_that_share_an_anchor_are_independent(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("summarize: {model: &m {backend: mock, answers: {a: b}}}\ninfer: {model: *m}\n")
    settings = load_settings(None, ["infer.model.answers={c: d}"], file=file, environment={})
    assert settings.summarize.model is not None
    assert settings.summarize.model.plugin_kwargs() == {"answers": {"a": "b"}}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {b: *a}",
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
    ],
)
def test_files_that_refer_to_themselves_or_explode_are_rejected(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="contains itself or too many values"):
        load_settings(None, file=file, environment={})


def test_overrides_can_be_a_mapping() -> None:
    texts = load_settings("demo", ["train.seed=3", "evaluate.ks=[5]"], environment={})
    dotted = load_settings("demo", {"train.seed": 3, "evaluate.ks": [5]}, environment={})
    nested = {"preset": "demo", "train": {"seed": 3}, "evaluate": {"ks": (5,)}}
    assert texts == dotted == load_settings(overrides=nested, environment={})
    assert nested["train"] == {"seed": 3}
    assert override(texts, {"train.seed": 4}).train.seed == 4
    with pytest.raises(SettingsError, match=r"Unknown setting 'train.sed'\. Did you mean"):
        load_settings("demo", {"train": {"sed": 1}}, environment={})


def test_a_single_text_as_overrides_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"'train.seed=1'\. Put them into a list"):
        load_settings("demo", "train.seed=1", environment={})


def test_a_file_can_be_named_by_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {seed: 7}\n")
    assert load_settings(None, file=str(file), environment={}).train.seed == 7
    assert load_settings(None, file=[str(file)], environment={}).train.seed == 7


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_what_it_is_for(name: str) -> None:
    text = describe_preset(name)
    assert 20 < len(text) <= 120
    assert text.endswith(".")
    assert "#" not in text


def test_settings_can_be_keywords() -> None:
    by_keyword = load_settings(
        "demo", {"train.seed": 1}, environment={}, train={"seed": 2}, data={"n_users": 60}
    )
    assert by_keyword == load_settings("demo", ["train.seed=2", "data.n_users=60"], environment={})
    with pytest.raises(SettingsError, match="Did you mean 'train'"):
        load_settings("demo", environment={}, trian={"seed": 2})


@pytest.mark.parametrize(("former", "loggers"), [(True, ("tensorboard",)), (False, ())])
def test_settings_that_an_earlier_version_saved_are_read(
    tmp_path: Path, former: bool, loggers: tuple[str, ...]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"train: {{tensorboard: {str(former).lower()}}}\n")
    assert load_settings(None, file=file, environment={}).train.loggers == loggers
