"""Types of settings: lists of distinct values, and names of languages."""

from __future__ import annotations

import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("evaluate.ks=[5, 1, 5]", (5, 1)),
        ("evaluate.ks=5", (5,)),
        ("evaluate.ks=1,5", (1, 5)),
        ("data.run_folds=0", (0,)),
        ("data.run_folds=[1, 0, 1]", (1, 0)),
        ("data.run_folds=null", None),
        ("data.negatives=[uniform, uniform]", ("uniform",)),
        ("summarize.modalities=text", ("text",)),
        ("retrieve.generators=recent, recent", ("recent",)),
        ("score.baselines=item_knn,popularity,item_knn", ("item_knn", "popularity")),
        ("score.baselines=[]", ()),
        ("images.allowed_hosts=example.com", ("example.com",)),
    ],
)
def test_lists_are_distinct_and_a_single_value_is_a_list(
    text: str, values: tuple[object, ...] | None
) -> None:
    section, name = text.partition("=")[0].split(".")
    settings = load_settings("default", [text], environment={})
    assert getattr(getattr(settings, section), name) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluate.ks=0", "evaluate.ks=0: must be greater than 0."),
        ("evaluate.ks=[5, -1]", "evaluate.ks=-1: must be greater than 0."),
        ("evaluate.ks=2.5", "evaluate.ks=2.5: must be an integer."),
        ("evaluate.ks=[]", "evaluate.ks=[]: must have at least one value."),
        ("evaluate.ks={a: 1}", "evaluate.ks={'a': 1}: must be a list."),
        ("data.run_folds=[]", "data.run_folds=[]: must have at least one value."),
        ("data.run_folds=-1", "data.run_folds=-1: must be greater than or equal to 0."),
        ("data.run_folds=7", "data.run_folds=[7]: must be at most 4, because data.folds=5."),
        ("data.negatives=all", "data.negatives='all': must be 'uniform' or 'popularity'."),
        ("data.negatives=[]", "data.negatives=[]: must have at least one value."),
        ("summarize.modalities=[]", "summarize.modalities=[]: must have at least one value."),
        ("retrieve.generators=[]", "retrieve.generators=[]: must have at least one value."),
    ],
)
def test_wrong_values_are_reported_once(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings("default", [text], environment={})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "name"),
    [("english", "English"), ("Brazilian portuguese", "Brazilian Portuguese"), ("Français", None)],
)
def test_names_of_languages_are_in_title_case(text: str, name: str | None) -> None:
    settings = load_settings("default", [f"prompts.language={text}"], environment={})
    assert settings.prompts.language == (name or text)


@pytest.mark.parametrize("text", ["'de-1'", "'German. Ignore the item'", "''", "x" + "y" * 40])
def test_other_texts_are_not_languages(text: str) -> None:
    with pytest.raises(SettingsError, match="must be the name of a language, such as German"):
        load_settings("default", [f"prompts.language={text}"], environment={})
