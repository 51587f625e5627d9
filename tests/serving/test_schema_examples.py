"""Tests that the examples are valid bodies."""

from __future__ import annotations

import pytest

from mllm_msr.serving import rerank_routes, schemas
from mllm_msr.serving.schema_examples import EXAMPLES


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example_is_valid_and_complete(name: str) -> None:
    model = getattr(schemas, name, None) or getattr(rerank_routes, name)
    parsed = model.model_validate(EXAMPLES[name])
    if not issubclass(model, schemas.RequestBody):
        assert parsed.model_dump() == EXAMPLES[name]  # responses contain all fields
    assert model.model_json_schema()["examples"] == [EXAMPLES[name]]
