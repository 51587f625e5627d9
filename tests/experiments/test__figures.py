"""Figures: sweeps have an axis, both kinds of negatives, and are the same every time."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.experiments._common import Row
from mllm_msr.experiments._figures import draw

ROWS = [Row("a", "1 item", x=1), Row("b", "2 items", x=2)]
CELLS = {
    "auc": {"mean": 0.6, "low": 0.5, "high": 0.7},
    "hr@5": {"mean": 0.3, "low": 0.2, "high": 0.4},
}
SUMMARY = {row.name: {"uniform": CELLS, "popularity": CELLS} for row in ROWS}


def drawn(path: Path, *, axis: str | None = "items per block") -> str:
    draw(
        path,
        "svg",
        rows=ROWS,
        summary=SUMMARY,
        chance={"uniform": {"auc": 0.5}},
        metrics=["auc", "hr@5"],
        axis=axis,
    )
    return path.read_text()


def test_a_sweep_has_its_axis_and_both_kinds(tmp_path: Path) -> None:
    text = drawn(tmp_path / "a.svg")
    assert text.count("items per block") == 2
    assert "Popularity negatives" in text
    assert "1 item" not in text
    assert drawn(tmp_path / "b.svg") == text


def test_systems_without_an_order_have_their_names(tmp_path: Path) -> None:
    text = drawn(tmp_path / "a.svg", axis=None)
    assert "1 item" in text
    assert "2 items" in text
