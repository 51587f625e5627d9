"""Record of what was understood of a dataset: problems and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.data.data_report import DataReport
from mllm_msr.data.source_report import describe_source
from mllm_msr.errors import DataError
from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS
from mllm_msr.types import SourceFile, SourceImages

ROWS = pl.LazyFrame({"user_id": ["u"], "item_id": ["v1"], "timestamp": [1]})
ITEM = pl.DataFrame([("v1", "Tea", "", None)], schema=dict(ITEMS), orient="row")


def test_a_report_with_a_problem_is_an_error() -> None:
    usable = describe_source(RawData(ROWS, ITEM))
    usable.require_usable()
    with pytest.raises(DataError, match="Too small"):
        usable.with_problem("Too small.").require_usable()


def test_it_can_be_written_as_json(tmp_path: Path) -> None:
    described = RawData(
        ROWS,
        ITEM,
        sources=(SourceFile(tmp_path / "a.csv", "items", "CSV", separator=","),),
        images=SourceImages(tmp_path, 0, 0),
    )
    values = json.loads(json.dumps(describe_source(described).to_dict()))
    assert values["files"][0]["path"] == str(tmp_path / "a.csv")
    assert values["images"]["folder"] == str(tmp_path)
    assert set(values) == set(DataReport.__dataclass_fields__)
