"""Item summaries: three prompts per item, missing modalities, and failures of single prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr import tables
from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.backends.mock import MockBackend
from mllm_msr.pipeline.cost.token_counter import CountingBackend, WordCounter
from mllm_msr.summarization.items import n_prompts, summarize
from mllm_msr.types import Prompt, TextPart


def answer(prompt: Prompt) -> str:
    text = prompt.text
    if "Describe the picture" in text:
        return "A red lantern on a table."
    if "Join both descriptions" in text:
        return "A quiet tale with a red lantern."
    return "A quiet tale."


@pytest.fixture
def items(tmp_path: Path) -> pl.DataFrame:
    good = tmp_path / "good.png"
    Image.new("RGB", (8, 8), "red").save(good)
    broken = tmp_path / "broken.jpg"
    broken.write_text("<html>not found</html>")
    rows = [
        ("both", "Lantern", "A film.", str(good)),
        ("text only", "Lantern", "", None),
        ("image only", "", "", str(good)),
        ("broken image", "Lantern", "", str(broken)),
        ("lost image", "Lantern", "", str(tmp_path / "none.jpg")),
        ("nothing", "", "", None),
    ]
    return pl.DataFrame(rows, schema=dict(tables.ITEMS), orient="row")


def test_every_item_gets_a_summary_from_its_modalities(items: pl.DataFrame) -> None:
    frame = summarize(items, MockBackend(answer), item_type="film")
    assert dict(frame.schema) == dict(tables.SUMMARIES)
    rows = {row["item_id"]: row for row in frame.iter_rows(named=True)}
    assert list(rows) == items["item_id"].to_list()
    assert rows["both"]["summary"] == "A quiet tale with a red lantern."
    assert rows["text only"]["summary"] == "A quiet tale."
    assert rows["image only"]["summary"] == "A red lantern on a table."
    assert rows["broken image"]["summary"] == "A quiet tale."
    assert rows["nothing"]["summary"] == "A film about which nothing is known."
    assert {k: r["image_status"] for k, r in rows.items()} == {
        "both": "ok",
        "text only": "missing",
        "image only": "ok",
        "broken image": "unreadable",
        "lost image": "missing",
        "nothing": "missing",
    }
    assert rows["nothing"]["flags"] == "nothing_to_read"
    assert rows["both"]["flags"] == ""


def test_only_required_prompts_are_sent(items: pl.DataFrame) -> None:
    backend = MockBackend(answer)
    finished: list[int] = []
    summarize(items, backend, item_type="film", progress=finished.append)
    first_words = [prompt.text.split()[0] for prompt in backend.history]
    assert first_words.count("Summarise") == 4
    assert first_words.count("Describe") == 2
    assert first_words.count("Join") == 1
    assert sum(finished) == len(backend.history) <= n_prompts(items)


def test_ids_never_enter_a_prompt(items: pl.DataFrame) -> None:
    backend = MockBackend(answer)
    summarize(items.with_columns(item_id="SECRET" + pl.col("item_id")), backend)
    assert not [p for p in backend.history if "SECRET" in p.text]


def test_images_are_not_opened_without_the_image_modality(items: pl.DataFrame) -> None:
    backend = MockBackend(answer, images=False)
    frame = summarize(items, backend, modalities=["text"])
    assert frame["image_summary"].null_count() == items.height
    assert set(frame["image_status"]) == {"unused"}


def test_a_failed_prompt_affects_only_its_row(items: pl.DataFrame) -> None:
    def fail_on_images(prompt: Prompt) -> str:
        if prompt.images:
            raise RuntimeError("cannot read the image")
        return answer(prompt)

    frame = summarize(items, MockBackend(fail_on_images), item_type="film")
    rows = {row["item_id"]: row for row in frame.iter_rows(named=True)}
    assert rows["both"]["flags"] == "image_failed"
    assert rows["both"]["image_summary"] is None
    assert rows["both"]["summary"] == "A quiet tale."
    assert rows["image only"]["flags"] == "image_failed,nothing_to_read"
    assert rows["text only"]["flags"] == ""


def test_a_failed_text_summary_falls_back_to_the_title(items: pl.DataFrame) -> None:
    def fail(prompt: Prompt) -> str:
        raise RuntimeError("failed")

    frame = summarize(items.head(2), MockBackend(fail))
    assert frame["text_summary"].to_list() == ["Lantern", "Lantern"]
    assert frame["flags"].to_list() == ["text_failed,image_failed", "text_failed"]


def test_flags_do_not_depend_on_the_order_of_answers(
    items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"text_words": 2, "image_words": 2, "words": 2}
    expected = summarize(items, MockBackend(answer), **limits)
    backend = MockBackend(answer)
    generate = backend.generate
    monkeypatch.setattr(backend, "generate", lambda prompts: reversed(list(generate(prompts))))
    assert summarize(items, backend, **limits).equals(expected)
    assert "text_cut,image_cut,fusion_cut" in expected["flags"].to_list()


def test_all_summaries_are_cut_to_their_limits(items: pl.DataFrame) -> None:
    backend = MockBackend(["One two three. Four five six."])
    frame = summarize(items.head(1), backend, text_words=4, image_words=4, words=3)
    assert frame.row(0, named=True) == {
        "item_id": "both",
        "text_summary": "One two three.",
        "image_summary": "One two three.",
        "summary": "One two three.",
        "image_status": "ok",
        "flags": "text_cut,image_cut,fusion_cut",
    }


def test_prompts_of_items_have_a_token_budget(items: pl.DataFrame) -> None:
    backend = MockBackend(answer)
    summarize(items.head(1), backend, max_text_tokens=99)
    budgets = [prompt.max_text_tokens for prompt in backend.history if not prompt.images]
    assert budgets == [99, 99]
    for prompt in backend.history:
        parts = [p for m in prompt.messages for p in m.parts if isinstance(p, TextPart)]
        assert any(part.trimmable for part in parts) == (not prompt.images)


@pytest.mark.parametrize(("n_words", "flags"), [(10, ""), (1000, "text_cut")])
def test_a_text_beyond_the_limit_of_the_templates_is_flagged(n_words: int, flags: str) -> None:
    row = ("long", "Lantern", "word " * n_words, None)
    frame = pl.DataFrame([row], schema=dict(tables.ITEMS), orient="row")
    assert summarize(frame, MockBackend(answer))["flags"].to_list() == [flags]


def test_a_text_beyond_the_token_budget_is_cut_at_a_word_and_flagged(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    backend = HuggingFaceBackend(str(tiny_checkpoint("llama")), device="cpu")
    wide = "\U0001f600" * 500, " ".join(["\U00020000" * 20] * 500)
    frame = pl.DataFrame([("wide", *wide, None)], schema=dict(tables.ITEMS), orient="row")
    counted = CountingBackend(WordCounter(), backend=backend)
    row = summarize(frame, counted, max_text_tokens=300).row(0, named=True)
    assert "text_cut" in row["flags"].split(",")
    completions = [each for kind in counted.responses.values() for each in kind]
    assert all(each.trimmed and each.prompt_tokens <= 300 for each in completions)


def test_a_fallback_is_short_in_scripts_without_spaces() -> None:
    frame = pl.DataFrame(
        [("wide", "\U00020000" * 2000, "", None)], schema=dict(tables.ITEMS), orient="row"
    )
    row = summarize(frame, MockBackend([""]), text_words=10).row(0, named=True)
    assert row["text_summary"] == "\U00020000" * 160


def test_a_prompt_shows_all_images_that_can_be_opened(
    items: pl.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, other = tmp_path / "good.png", tmp_path / "other.png"
    Image.new("RGB", (8, 8), "blue").save(other)
    more = {
        "both": [other],
        "image only": [tmp_path / "none.jpg", other],
        "broken image": [good],
        "lost image": [tmp_path / "broken.jpg"],
    }
    paths = [[str(path) for path in more.get(item_id, ())] or None for item_id in items["item_id"]]
    shown: list[tuple[Path, ...]] = []

    def describe(prompt: Prompt) -> str:
        shown.extend([prompt.images] if prompt.images else [])
        return answer(prompt)

    several = items.with_columns(more_images=pl.Series(paths, dtype=pl.List(pl.String)))
    frame = summarize(several, MockBackend(describe), item_type="film")
    assert sorted(shown) == sorted([(good, other), (good, other), (good,)])
    found = {row[0]: row[1:] for row in frame.select("item_id", "image_status", "flags").rows()}
    assert found == {
        "both": ("ok", ""),
        "text only": ("missing", ""),
        "image only": ("ok", "image_incomplete"),
        "broken image": ("ok", "image_incomplete"),
        "lost image": ("missing", ""),
        "nothing": ("missing", "nothing_to_read"),
    }
    assert "summarizing item broken image without one of its images: " in caplog.text
    assert "summarizing item lost image without its image: " in caplog.text
    assert n_prompts(several) == n_prompts(items)
