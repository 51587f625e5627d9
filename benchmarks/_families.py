"""Section of docs/speed.md on the model families for which a measured speedup holds.

The compatibility test records for each family which work its prompts share
(`tests/invariants/test_model_families.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parents[1] / "tests" / "golden" / "model_families.json"

_INTRODUCTION: Final = """\
## Models for which the figures hold

Each figure was measured with the model in its heading: `demo`, `middle` and `7b` belong to the
family `llava_next`, `smolvlm2-256m` and `smolvlm2-500m` to `smolvlm`, `smollm` to
`llava_efficientnet`, and `qwen3-vl-2b` to `qwen3_vl`. The size of a speedup depends on the sizes of
the model, and on how many prompts share an image or a user. The optimizations behind it apply to
the [tested families](models.md#compatibility) of this table. The others encode each image once
where its features can be cached, and are otherwise as fast as strong.
"""

Facts = Mapping[str, Any]

# Figures, and the condition under which the optimizations that they measure apply to a family.
_FIGURES: Final[Mapping[str, Callable[[Facts], bool]]] = {
    "scoring": lambda facts: facts["scoring"],
    "scoring of one user's list": lambda facts: facts["user_first"],
    "preferences and summaries": lambda facts: facts["writing"],
    "training": lambda facts: facts["training"],
}


def families_section(results: Path = RESULTS) -> str:
    """Return the section with a table: for each figure, the families that share its work.

    Args:
        results: Results of the compatibility test.
    """
    rows = json.loads(results.read_text(encoding="utf-8"))
    tested = {name: row for name, row in rows.items() if "rejected" not in row}
    lines = ["| figure | families with images | families of text | not for |", "|---|---|---|---|"]
    for figure, holds in _FIGURES.items():
        groups: dict[tuple[bool, bool], list[str]] = {}
        for name, row in tested.items():
            key = bool(holds(row["optimizations"])), bool(row["images"])
            groups.setdefault(key, []).append(name)
        others = sorted([*groups.get((False, True), []), *groups.get((False, False), [])])
        cells = [groups.get((True, True), []), groups.get((True, False), []), others]
        lines.append(f"| {figure} | " + " | ".join(map(_names, cells)) + " |")
    windows = _having(tested, "sliding_window")
    last_layer = _having(tested, "last_layer")
    return "\n".join(
        [
            _INTRODUCTION,
            *lines,
            "",
            f"In training, {_names(windows)} share prefixes of prompts that are not longer than",
            "their sliding window. The last layer is computed for one token of each prompt in",
            f"{_names(last_layer)}.",
            "",
        ]
    )


def _having(rows: Mapping[str, Any], fact: str) -> list[str]:
    return [name for name, row in rows.items() if row["optimizations"][fact]]


def _names(families: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in families)
