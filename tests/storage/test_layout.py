"""Layout: names in the run folder are relative, distinct, and written down only once."""

from __future__ import annotations

import ast
from pathlib import Path, PurePosixPath

import mllm_msr
from mllm_msr import tables
from mllm_msr.storage import layout

NAMES = {
    name: value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)
}
PACKAGE = Path(mllm_msr.__file__).parent


def test_names_are_relative_and_distinct() -> None:
    for value in NAMES.values():
        path = PurePosixPath(value)
        assert not path.is_absolute()
        assert ".." not in path.parts
    assert len(set(NAMES.values())) == len(NAMES)


def test_every_table_with_a_schema_has_a_name() -> None:
    assert set(tables.SCHEMAS) <= set(NAMES.values())


def test_no_other_module_repeats_the_name_of_a_file() -> None:
    files = {value for value in NAMES.values() if PurePosixPath(value).suffix or "/" in value}
    repeated = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}"
        for path in PACKAGE.rglob("*.py")
        if path != Path(layout.__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in files
    ]
    assert repeated == []
