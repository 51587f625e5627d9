"""What a run will cost, as `pipeline/cost/estimate.py` finds it and the command line shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage will ask of its model.

    Attributes:
        stage: Name in the manifest.
        backend: Name of the backend that answers.
        calls: Questions, equal ones counted once where that is known beforehand.
        spared_calls: Questions that the response cache answers, being equal to others.
        prompt_tokens: Tokens read, images included.
        image_tokens: Those of them that are images.
        shared_tokens: Those of them that sharing of prefixes spares an engine that has it.
        output_tokens: Tokens written.
        seconds: At the given or measured rate; `None` without one.
        price: In the currency of the prices; 0 where the model runs here.
        disk_bytes: What its responses take.
        done: Whether it is finished already; then it costs nothing any more.
    """

    stage: str
    backend: str
    calls: int = 0
    spared_calls: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    shared_tokens: int = 0
    output_tokens: int = 0
    seconds: float | None = None
    price: float = 0.0
    disk_bytes: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The bill.

    Attributes:
        stages: Every stage that asks a model, in order.
        counted_by: How prompts were counted.
        lengths_by: Where the lengths of answers come from: "answers of this run", "a pilot", or
            "the settings' limits, a ceiling".
    """

    stages: tuple[StageCost, ...]
    counted_by: str
    lengths_by: str

    @property
    def tokens(self) -> int:
        """Tokens read and written by the stages that are still to do, but for training."""
        asked = (s for s in self.stages if not s.done and not s.stage.startswith("train"))
        return sum(stage.prompt_tokens + stage.output_tokens for stage in asked)

    @property
    def price(self) -> float:
        """Price of the stages that are still to do."""
        return sum(stage.price for stage in self.stages if not stage.done)

    @property
    def hours(self) -> float | None:
        """Hours of the stages that are still to do; `None` without a rate."""
        seconds = [stage.seconds for stage in self.stages if not stage.done]
        known = [value for value in seconds if value is not None]
        return sum(known) / 3600 if len(known) == len(seconds) else None

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        totals = {"tokens": self.tokens, "price": self.price, "hours": self.hours}
        return {**asdict(self), "remaining": totals}
