"""Options of the baselines' training loop, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from mllm_msr.baselines._training.checks import not_a_fraction, too_small

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Type of a batch, defined by each baseline.
B = TypeVar("B")
Precision = Literal["auto", "bf16", "fp32"]
# Begin of the reason of a training run that its time limit stopped.
TIME_LIMIT: Final = "time limit"
# Returns the validation metric of the current network; higher is better.
Validate = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """Options of the training loop.

    Attributes:
        epochs: Upper bound on the passes over the data, at least 1.
        learning_rate: Constant learning rate of AdamW, above 0.
        beta2: Second decay rate of AdamW, in [0, 1).
        weight_decay: Weight decay of AdamW, at least 0.
        clip: Maximum gradient norm; 0 disables clipping.
        early_stopping_patience: Validations without improvement before training stops, at
            least 1.
        validate_every: Epochs between validations, at least 1.
        max_minutes: Time after which training stops, above 0; checked after each batch. `None` sets
            no limit. The result of a run that reaches it depends on the speed of the machine.
        precision: "bf16" runs matrix products under autocast, "fp32" does not, "auto" chooses
            "bf16" if the processor supports it.
        seed: Seed of dropout; the caller orders the batches.
    """

    epochs: int = 50
    learning_rate: float = 1e-3
    beta2: float = 0.98
    weight_decay: float = 0.0
    clip: float = 0.0
    early_stopping_patience: int = 5
    validate_every: int = 1
    max_minutes: float | None = None
    precision: Precision = "auto"
    seed: int = 0

    def problems(self) -> list[str]:
        """Return one sentence for each value out of range, for `SettingsError`."""
        found = too_small(self, "epochs", "early_stopping_patience", "validate_every")
        found += [
            f"{name} must be above 0, but is {value}."
            for name in ("learning_rate", "max_minutes")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        found += [
            f"{name} must not be negative, but is {value}."
            for name in ("weight_decay", "clip")
            if not (value := getattr(self, name)) >= 0
        ]
        found += not_a_fraction(self, "beta2")
        if self.precision not in {"auto", "bf16", "fp32"}:
            found.append(f"precision must be auto, bf16 or fp32, but is {self.precision!r}.")
        return found


def changed_fields(settings: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults.

    Fingerprints record only these, so that a new option does not invalidate saved states.
    """
    return {
        each.name: value
        for each in fields(settings)
        if each.init and (value := getattr(settings, each.name)) != each.default
    }
