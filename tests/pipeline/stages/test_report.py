"""Stage "report": the model whose case studies are shown."""

from __future__ import annotations

import pytest

from mllm_msr.pipeline.stages.report import main_model


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        (["zero_shot", "mllm_msr", "popularity"], "mllm_msr"),
        (["zero_shot", "popularity"], "zero_shot"),
        (["sasrec"], "sasrec"),
    ],
)
def test_the_main_model(scored: list[str], expected: str) -> None:
    assert main_model(scored) == expected
