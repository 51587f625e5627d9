"""The extension points: what an implementation gets without writing it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.backends.mock import MockBackend
from mllm_msr.baselines.item_knn import ItemKnn
from mllm_msr.errors import CapabilityError
from mllm_msr.interfaces import Backend, CatalogScorer, Recommender, Tunable


class Constant(Recommender):
    """The shortest recommender."""

    label = "Constant"

    def fit(self, data):
        return self

    def score(self, candidates, interactions):
        return candidates.with_columns(score=pl.lit(0.5))

    def save(self, folder: Path) -> None:
        folder.mkdir()

    @classmethod
    def load(cls, folder: Path):
        return cls()


def test_a_recommender_needs_four_methods() -> None:
    model = Constant()
    assert (model.remark, model.requires_llm, model.usage()) == ("", False, {})
    model.close()
    assert not isinstance(model, CatalogScorer)
    assert not issubclass(Constant, Tunable)


def test_optional_protocols_are_recognized() -> None:
    assert isinstance(ItemKnn(), CatalogScorer)
    assert issubclass(ItemKnn, Tunable)


def test_abstract_classes_cannot_be_constructed() -> None:
    for kind in (Recommender, Backend):
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_a_backend_without_fine_tuned_weights_says_so() -> None:
    assert MockBackend.trainable_checkpoint() is None
    with pytest.raises(CapabilityError, match=r"MockBackend cannot load .* train.enabled=false"):
        MockBackend.with_adapter({}, Path("adapter"), "lora")
    assert MockBackend.default_copies() == 1
