"""Checks of settings beyond their types."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.config.checks import (
    check_generators,
    check_plugins,
    check_prompts,
    check_stages,
    image_readers,
)
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings


def test_all_problems_with_plugins_are_returned() -> None:
    settings = Settings.model_validate(
        {
            "dataset": "movielens",
            "model": {"backend": "mock", "anwsers": {}},
            "score": {"baselines": ["popularty"]},
            "baselines": {"sasrec": {"epochs": "many"}, "item_knn": 3},
        }
    )
    problems = " ".join(check_plugins(settings))
    assert "requires the setting 'data.path'" in problems
    assert "Unknown setting 'model.anwsers' of the backend 'mock'. Did you mean" in problems
    assert "Unknown baseline 'popularty'" in problems
    assert "baselines.sasrec.epochs='many': must be an integer." in problems
    assert "baselines.item_knn=3: must be a mapping" in problems
    assert check_plugins(Settings()) == []


@pytest.mark.parametrize("word", [None, "film", "book", "mouse/mice"])
def test_any_word_for_an_item_is_accepted(word: str | None) -> None:
    assert check_prompts(Settings(item_type=word)) == []


def test_problems_with_words_and_templates_are_returned(tmp_path: Path) -> None:
    settings = Settings.model_validate({"item_type": "{}", "prompts": {"folder": tmp_path}})
    word, folder = check_prompts(settings)
    assert word.startswith("item_type is '{}'. Use a word")
    assert "has no templates" in folder


def test_worked_examples_are_english() -> None:
    def problems(**prompts: str) -> list[str]:
        return check_prompts(Settings.model_validate({"prompts": prompts}))

    assert problems(style="few_shot") == problems(language="German") == []
    (problem,) = problems(style="few_shot", language="german")
    assert "prompts.language=German: the worked examples are in English" in problem


def test_skipped_stages_must_not_be_needed() -> None:
    def problems(**sections: dict[str, object]) -> list[str]:
        return check_stages(Settings.model_validate(sections))

    off = {"enabled": False}
    history = {"reads": "history"}
    assert problems() == []
    assert problems(infer=off, recommend=history) == []
    assert problems(infer=off, summarize=off, recommend=history) == []
    (problem,) = problems(infer=off)
    assert "recommend.reads='preference' needs preferences. Set recommend.reads=history" in problem
    (problem,) = problems(summarize=off, recommend=history)
    assert "Set infer.enabled=False, or summarize.enabled=true" in problem
    (problem,) = problems(infer=off, summarize=off, recommend={**history, "item_text": "summary"})
    assert "Set another recommend.item_text" in problem


def test_summaries_that_are_read_must_be_written() -> None:
    def problems(modality: str, **sections: dict[str, object]) -> list[str]:
        summarize = {"modalities": [modality]}
        return check_stages(Settings.model_validate({"summarize": summarize, **sections}))

    content = {"content": "image_summary"}
    assert problems("image", baselines=content) == problems("text") == []
    assert problems("text", infer={"use_images": False}) == []
    (problem,) = problems("image", infer={"use_images": False})
    assert "reads text summaries only, but summarize.modalities=[image] writes none" in problem
    (problem,) = problems("text", baselines=content)
    assert "descriptions of images, but summarize.modalities=[text] writes none" in problem


SMALL = "model.preset=smollm2-135m"
SUMMARIES = "summarize.modalities=[text, image]"


@pytest.mark.parametrize(
    ("changes", "readers"),
    [
        ([], [SUMMARIES, "recommend.use_images=true"]),
        (["recommend.use_images=false"], [SUMMARIES]),
        (["recommend.use_images=false", "summarize.modalities=[text]"], []),
        ([SMALL], []),
        ([SMALL, "recommend.use_images=true"], ["recommend.use_images=true"]),
        ([SMALL, "baselines.content=image"], ["baselines.content=image"]),
        ([SMALL, "align.enabled=true"], ["align.enabled=true"]),
        ([SMALL, "score.baselines=[sasrec_f, llava_zero_shot]"], []),
    ],
)
def test_settings_with_which_a_model_reads_images(changes: list[str], readers: list[str]) -> None:
    assert image_readers(load_settings("default", changes, environment={})) == readers


@pytest.mark.parametrize(
    ("retrieve", "problem"),
    [
        ({}, ""),
        ({"generators": ["item_knn", "recent"]}, ""),
        ({"generators": ["collaborative", "item_knn"], "collaborative": "sasrec"}, ""),
        # item_knn is the default of collaborative.
        ({"generators": ["collaborative", "item_knn"]}, "contains 'item_knn' twice"),
        (
            {"generators": ["sasrec", "collaborative"], "collaborative": "sasrec"},
            "contains 'sasrec' twice",
        ),
        ({"generators": ["recent", "item_nn"]}, "item_knn"),
        ({"collaborative": "item_nn"}, "item_knn"),
        ({"generators": ["tallrec"]}, "'tallrec' calls a language model for each item"),
        ({"generators": ["hybrid"]}, "Remove mllm_msr from the members"),
    ],
)
def test_candidate_generators_are_distinct_and_fast(
    retrieve: dict[str, object], problem: str
) -> None:
    baselines = {"hybrid": {"members": ["sasrec", "mllm_msr"]}}
    sections = {"retrieve": retrieve, "baselines": baselines}
    problems = check_generators(Settings.model_validate(sections))
    assert len(problems) == bool(problem)
    assert problem in " ".join(problems)
