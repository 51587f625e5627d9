"""The table of families in docs/speed.md."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks._families import RESULTS, families_section
from mllm_msr.models.prefix_support import TESTED_WRAPPERS


def test_each_family_is_in_one_column_per_figure(tmp_path: Path) -> None:
    facts = {"scoring": True, "user_first": False, "writing": True, "training": True}
    limits = {"sliding_window": True, "last_layer": False}
    none = dict.fromkeys((*facts, *limits), False)
    rows = {
        "alpha": {"images": True, "optimizations": {**facts, **limits}},
        "beta": {"images": False, "optimizations": {**facts, **limits, "last_layer": True}},
        "gamma": {"images": True, "optimizations": none},
        "delta": {"rejected": "It cannot work."},
    }
    path = tmp_path / "families.json"
    path.write_text(json.dumps(rows))
    section = families_section(path)
    assert "| scoring | `alpha` | `beta` | `gamma` |" in section
    assert "| scoring of one user's list |  |  | `alpha`, `beta`, `gamma` |" in section
    assert "In training, `alpha`, `beta` share prefixes" in section
    assert "in\n`beta`." in section
    assert "delta" not in section


def test_the_facts_agree_with_the_tested_types() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    shared = {
        row["type"]
        for row in rows.values()
        if row.get("images") and row["optimizations"]["scoring"]
    }
    assert shared == TESTED_WRAPPERS
