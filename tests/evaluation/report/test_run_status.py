"""Costs of the stages, and warnings of images and texts."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.evaluation.report.run_status import (
    costs,
    count_words,
    hardware,
    time_limit_notes,
    warning_counts,
    warning_words,
)
from mllm_msr.tables import PREFERENCES, SUMMARIES


def test_costs_distinguish_model_calls_from_cached_responses():
    counts = {"hits": 30, "misses": 10, "prompt_tokens": 500, "items": 7}
    summarize, prepare = costs({"summarize": {"seconds": 2.5, "counts": counts}, "prepare": {}})
    assert (summarize.calls, summarize.cached, summarize.prompt_tokens) == (10, 0.75, 500)
    assert summarize.output_tokens is None
    assert summarize.details == (("items", 7),)
    assert (prepare.calls, prepare.cached, prepare.seconds) == (None, None, 0.0)


def test_stages_are_grouped_by_hardware():
    gpu, cpu = {"hardware": "H200"}, {"hardware": "Zen 9"}
    stages = {"prepare": cpu, "old": {}, "train/0": gpu, "train/1": gpu, "report": cpu}
    assert hardware(stages) == {"Zen 9": ["prepare", "report"], "H200": ["train"]}


def test_counts_of_warnings_are_in_words():
    assert count_words("fusion_repetition_loop") == "combined summary: repetition loop"
    assert count_words("text_retried") == "text summary: second or third attempt used"
    assert count_words("images_stored") == "images stored"


def test_images_and_warnings_are_counted():
    summaries = pl.DataFrame(
        [
            ("a", "t", "i", "s", "ok", ""),
            ("b", "t", None, "s", "missing", "image_cut,fusion_cut"),
            ("c", "t", None, "s", "ok", "image_cut"),
        ],
        schema=dict(SUMMARIES),
        orient="row",
    )
    preferences = pl.DataFrame(
        [("u", 0, 3, "p", True, None)], schema=dict(PREFERENCES), orient="row"
    )
    rows = warning_counts(summaries, preferences)
    assert ("images", "ok", 2, pytest.approx(2 / 3)) in rows
    assert ("images", "missing", 1, pytest.approx(1 / 3)) in rows
    assert ("summaries", "no warning", 1, pytest.approx(1 / 3)) in rows
    assert ("summaries", "image_cut", 2, pytest.approx(2 / 3)) in rows
    assert ("preferences", "no warning", 1, 1.0) in rows
    assert warning_counts(None, None) == []


def test_models_that_a_time_limit_stopped_have_a_note():
    counts = {"stopped_by_time_limit": 1, "scores": 9}
    stages = {
        "score/sasrec@0": {"counts": counts},
        "score/sasrec@1": {"counts": {**counts, "stopped_by_time_limit": 2}},
        "score/popularity": {"counts": {"scores": 9}},
        "train/0": {},
    }
    notes = time_limit_notes(stages)
    assert set(notes) == {"sasrec"}
    assert "max_minutes) 3 times" in notes["sasrec"]


@pytest.mark.parametrize(
    ("warning", "words"),
    [
        ("image_refusal", "image summary: refusal"),
        ("image_incomplete", "image summary: not all images of the item can be opened"),
        ("fusion_failed", "combined summary: no usable answer"),
        ("text_", "text "),
        ("unexpected_opening", "unexpected opening"),
        ("missing", "missing"),
    ],
)
def test_warnings_are_shown_in_words(warning, words):
    assert warning_words(warning) == words
