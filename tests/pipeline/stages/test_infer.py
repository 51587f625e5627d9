"""Stage "infer": the settings reach the prompts, and flagged texts are counted."""

from __future__ import annotations

import polars as pl
import pytest

from mllm_msr.backends.mock import MockBackend
from mllm_msr.config.settings import InferSettings
from mllm_msr.pipeline.stages.infer import infer
from mllm_msr.tables import INTERACTIONS

PREFERENCE = "The user appears to have a preference for lanterns."
HISTORIES = pl.DataFrame(
    [("u", item, at, at) for at, item in enumerate("abcd")],
    schema=dict(INTERACTIONS),
    orient="row",
)
SUMMARIES = pl.DataFrame(
    {
        "item_id": list("abcd"),
        "text_summary": [f"text of {item}" for item in "abcd"],
        "summary": [f"image of {item}" for item in "abcd"],
    }
)


def test_blocks_and_words_follow_the_settings() -> None:
    backend = MockBackend([PREFERENCE])
    settings = InferSettings(block_size=2, words=33, use_images=False)
    preferences, counts = infer(
        HISTORIES, SUMMARIES, backend, settings, item_type="film", every_block=True
    )
    assert preferences["n_items"].to_list() == [2, 4]
    assert {name: counts[name] for name in ("users", "blocks", "flagged")} == {
        "users": 1,
        "blocks": 2,
        "flagged": 0,
    }
    texts = [prompt.text for prompt in backend.history]
    assert all("at most 33 words" in text and "films" in text for text in texts)
    assert "text of a" in texts[0]
    assert "image of" not in "".join(texts)


def test_known_blocks_are_not_inferred_again() -> None:
    settings = InferSettings(block_size=2)
    known, _ = infer(
        HISTORIES.head(2), SUMMARIES, MockBackend([PREFERENCE]), settings,
        item_type="film", every_block=True,
    )  # fmt: skip
    backend = MockBackend([PREFERENCE])
    preferences, _ = infer(
        HISTORIES, SUMMARIES, backend, settings,
        item_type="film", every_block=True, previous=known,
    )  # fmt: skip
    assert preferences.height == 2
    assert len(backend.history) == 1


def test_final_preferences_are_compared_with_the_summaries_of_the_history() -> None:
    # Of "colorful image of c", all content words but the first are in the summaries; "of" is none.
    backend = MockBackend([PREFERENCE, f"{PREFERENCE[:41]} colorful image of c"])
    settings = InferSettings(block_size=2)
    _, counts = infer(HISTORIES, SUMMARIES, backend, settings, item_type="film", every_block=True)
    assert counts["source_coverage"] == pytest.approx(2 / 3, abs=1e-4)
    assert counts["repetition"] == 0.0
