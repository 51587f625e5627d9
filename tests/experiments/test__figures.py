"""Figures: sweeps have an axis and both kinds of negatives; files are reproducible."""

from __future__ import annotations

from pathlib import Path

from mllm_msr.experiments._experiment import System
from mllm_msr.experiments._figures import draw

SYSTEMS = [System("a", "1 item", x=1), System("b", "2 items", x=2)]
CELLS = {
    "auc": {"mean": 0.6, "low": 0.5, "high": 0.7},
    "hr@5": {"mean": 0.3, "low": 0.2, "high": 0.4},
}
SUMMARY = {system.name: {"uniform": CELLS, "popularity": CELLS} for system in SYSTEMS}


def draw_svg(path: Path, *, axis: str | None = "items per block") -> str:
    draw(
        path,
        "svg",
        systems=SYSTEMS,
        summary=SUMMARY,
        chance={"uniform": {"auc": 0.5}},
        metrics=["auc", "hr@5"],
        axis=axis,
    )
    return path.read_text()


def test_a_sweep_has_its_axis_and_both_kinds_of_negatives(tmp_path: Path) -> None:
    text = draw_svg(tmp_path / "a.svg")
    assert text.count("items per block") == 2
    assert "Popularity negatives" in text
    assert "1 item" not in text


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    assert draw_svg(tmp_path / "a.svg") == draw_svg(tmp_path / "b.svg")


def test_systems_without_an_order_are_labeled(tmp_path: Path) -> None:
    text = draw_svg(tmp_path / "a.svg", axis=None)
    assert "1 item" in text
    assert "2 items" in text
