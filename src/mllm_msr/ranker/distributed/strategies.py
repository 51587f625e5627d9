"""Factory of the distributed strategies."""

from __future__ import annotations

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.distributed.base import DistributedStrategy, ReplicatedStrategy


def make_strategy(settings: TrainSettings) -> DistributedStrategy:
    """Create the strategy that `settings.strategy` names."""
    # Both modules import Lightning, which takes seconds; deepspeed is an extra.
    if settings.strategy.startswith("deepspeed"):
        from mllm_msr.ranker.distributed.deepspeed import DeepSpeedZero  # noqa: PLC0415

        stage = int(settings.strategy[-1])
        return DeepSpeedZero(stage=stage, batch_size=settings.batch_size)
    if settings.strategy == "fsdp":
        from mllm_msr.ranker.distributed.fsdp import FullySharded  # noqa: PLC0415

        return FullySharded(devices=settings.devices, nodes=settings.nodes)
    return ReplicatedStrategy(settings.strategy)
