"""Scoring rows by prompts: order, unknown rows, lazy opening, usage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from mllm_msr.backends.mock import MockBackend
from mllm_msr.errors import BackendError
from mllm_msr.inference.cached import CachedBackend
from mllm_msr.ranker.examples import Example, build_prompt
from mllm_msr.ranker.prompt_scorer import PromptScorer
from mllm_msr.storage.response_cache import ResponseCache
from mllm_msr.tables import ITEMS
from mllm_msr.types import Item, Prompt

CANDIDATES = pl.DataFrame(
    {"user_id": ["u1", "u1", "u2"], "position": [3, 3, 1], "item_id": ["b", "a", "gone"]}
)


def examples(rows: pl.DataFrame) -> Iterator[Example]:
    for row in rows.iter_rows(named=True):
        if row["item_id"] != "gone":
            item = Item(row["item_id"], f"title {row['item_id']}")
            yield Example(**row, prompt=build_prompt("tales", item, item_type="film"))


def test_scores_follow_the_rows_and_rows_without_a_prompt_have_no_score() -> None:
    totals = []

    class Progress:
        def __init__(self, total: int) -> None:
            totals.append(total)

        def __enter__(self):
            return lambda n: None

        def __exit__(self, *_: object) -> None:
            return None

    scores = {"title a": (0.9, 0.1), "title b": (0.2, 0.8)}
    scorer = PromptScorer(lambda: MockBackend(scores=scores), max_error_rate=0.0, progress=Progress)
    scored = scorer.score(CANDIDATES, examples)
    assert scored.drop("score").equals(CANDIDATES)
    assert scored["score"].to_list() == [pytest.approx(0.2), pytest.approx(0.9), None]
    swapped = scorer.score(CANDIDATES.reverse(), examples)
    assert swapped["score"].reverse().equals(scored["score"])
    assert totals == [3, 3]


def test_the_backend_opens_on_first_use_and_after_closing() -> None:
    opened = []

    def open_backend() -> MockBackend:
        opened.append(1)
        return MockBackend(scores={"title a": (0.9, 0.1), "title b": (0.2, 0.8)})

    scorer = PromptScorer(open_backend, max_error_rate=0.0)
    assert not opened
    scorer.score(CANDIDATES, examples)
    scorer.score(CANDIDATES, examples)
    assert len(opened) == 1
    scorer.close()
    scorer.close()
    scorer.score(CANDIDATES, examples)
    assert len(opened) == 2


def test_failures_above_the_rate_raise_and_below_it_are_counted() -> None:
    def fail_on_a(prompt: Prompt) -> tuple[float, float]:
        if "title a" in prompt.text:
            raise RuntimeError("no memory")
        return (0.75, 0.25)

    def open_backend() -> MockBackend:
        return MockBackend(scores=fail_on_a)

    with pytest.raises(BackendError, match="no memory"):
        PromptScorer(open_backend, max_error_rate=0.4).score(CANDIDATES, examples)
    scorer = PromptScorer(open_backend, max_error_rate=0.5)
    assert scorer.score(CANDIDATES, examples)["score"].to_list()[1:] == [None, None]
    expected = {"failed": 1, "upper_bound": 0, "without_image": 0}
    assert scorer.usage() == expected
    scorer.close()
    assert scorer.usage() == expected


def test_candidates_whose_image_cannot_be_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    names = {name: str(tmp_path / f"{name}.png") for name in "abc"}
    items = pl.DataFrame(
        [(name, f"title {name}", "", names[name]) for name in "abc"],
        schema=dict(ITEMS),
        orient="row",
    )
    scorer = PromptScorer(MockBackend, max_error_rate=0.0)
    for n_calls in range(1, 3):
        readable = scorer.readable_items(items, CANDIDATES)
        assert scorer.usage()["without_image"] == n_calls
        # The item c is not a candidate, so its missing file does not matter.
        assert readable["image"].to_list() == [names["a"], None, names["c"]]
    message = "1 items are scored without images that cannot be opened. The first is b: "
    assert caplog.text.count(message) == 1


def test_usage_includes_the_response_cache(tmp_path: Path) -> None:
    with contextlib.closing(ResponseCache(tmp_path / "responses.sqlite")) as cache:
        scorer = PromptScorer(lambda: CachedBackend(MockBackend(), cache), max_error_rate=0.0)
        scorer.score(CANDIDATES, examples)
        scorer.close()
        scorer.score(CANDIDATES, examples)
        assert (scorer.usage()["misses"], scorer.usage()["hits"]) == (2, 2)
