from __future__ import annotations

from typing import Any

import pytest

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.distributed.strategies import make_strategy


@pytest.mark.parametrize("name", ["auto", "ddp"])
def test_replicated_strategies_are_lightnings_by_name(name: Any) -> None:
    strategy = make_strategy(TrainSettings(strategy=name))
    assert strategy.lightning_strategy() == name
    assert strategy.supports_prefix_sharing


def test_fsdp_uses_the_devices_of_all_machines() -> None:
    strategy = make_strategy(TrainSettings(strategy="fsdp", devices=2, nodes=3))
    lightning = strategy.lightning_strategy()
    assert (lightning._data_parallel_size, lightning._tensor_parallel_size) == (6, 1)
    assert not strategy.supports_prefix_sharing
