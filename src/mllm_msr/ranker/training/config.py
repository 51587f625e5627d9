"""The options of fine-tuning: one frozen record, so that a run can be told from another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from mllm_msr.errors import SettingsError

Method = Literal["lora", "full"]
Init = Literal["default", "gaussian"]
Target = Literal["language", "all-linear"] | Sequence[str]
Scheduler = Literal["cosine", "constant"]
Precision = Literal["bf16", "fp16", "fp32"]
Loss = Literal["answer", "full"]

STRATEGIES: Final = ("auto", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2")

# Options that change how fast a run is or what it leaves behind, not what it learns.
_HARMLESS: Final = frozenset(
    {"checkpoint_every", "gradient_checkpointing", "cache_vision", "tensorboard"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a recommender is fine-tuned.

    Attributes:
        method: "lora", or "full" for all weights of the language model.
        rank: Rank of the LoRA matrices.
        alpha: Their scale is alpha / rank.
        dropout: Dropout before them, in [0, 1).
        init: Their initialisation, see `model.add_lora`.
        target: Layers that get them, see `model.add_lora`.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Its weight decay.
        batch_size: Examples per forward pass and device.
        accumulate: Forward passes per optimiser step and device.
        epochs: Passes over the examples; fractions are allowed.
        max_steps: Bound on optimiser steps, `None` for none.
        warmup: Share of the steps over which the learning rate rises, in [0, 1).
        scheduler: What follows: "cosine" falls to zero, "constant" stays.
        clip: Largest gradient norm, `None` for no clipping.
        precision: Of matrix products; "fp16" needs a GPU.
        loss: "answer" teaches the answer alone, "full" all text of prompt and answer.
        validate_every: Optimiser steps between validations, `None` for once per epoch.
        early_stopping_patience: Validations without gain before the run stops.
        checkpoint_every: Optimiser steps between saved states.
        gradient_checkpointing: Less memory for more time.
        cache_vision: Encode each image once, and read what prompts of one image share once
            per batch, where model and method allow it.
        strategy: One of `STRATEGIES`.
        devices: Devices per machine.
        nodes: Machines; more than one take torchrun, see `launching`.
        tensorboard: Write TensorBoard files beside the log.
        seed: Seed of the LoRA matrices, the order of the examples and the dropout masks.
    """

    method: Method = "lora"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    init: Init = "default"
    target: Target = "language"
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    batch_size: int = 8
    accumulate: int = 1
    epochs: float = 3
    max_steps: int | None = None
    warmup: float = 0.03
    scheduler: Scheduler = "cosine"
    clip: float | None = 1.0
    precision: Precision = "bf16"
    loss: Loss = "answer"
    validate_every: int | None = None
    early_stopping_patience: int = 3
    checkpoint_every: int = 100
    gradient_checkpointing: bool = False
    cache_vision: bool = True
    strategy: str = "auto"
    devices: int | Literal["auto"] = "auto"
    nodes: int = 1
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (
            "rank",
            "batch_size",
            "accumulate",
            "epochs",
            "early_stopping_patience",
            "learning_rate",
        )
        problems = [
            f"train.{name} must be above 0, it is {getattr(self, name)}"
            for name in (*positive, "checkpoint_every", "nodes")
            if getattr(self, name) <= 0
        ]
        problems += [
            f"train.{name} must be in [0, 1), it is {getattr(self, name)}"
            for name in ("dropout", "warmup")
            if not 0 <= getattr(self, name) < 1
        ]
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            problems.append(f"train.strategy must be one of {known}, it is {self.strategy!r}")
        if self.strategy == "fsdp" and self.precision == "fp16":
            problems.append("train.strategy fsdp has no loss scaling, use train.precision bf16")
        if problems:
            raise SettingsError(problems)

    def fingerprint(self) -> dict[str, Any]:
        """The options that change what is learned, as JSON has them."""
        values = {name: value for name, value in asdict(self).items() if name not in _HARMLESS}
        target = values["target"]
        return {**values, "target": target if isinstance(target, str) else sorted(target)}
