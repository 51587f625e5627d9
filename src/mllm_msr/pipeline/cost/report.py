"""Cost report of a run, built by `pipeline/cost/estimate.py` and printed by `mllm-msr plan`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mllm_msr.config.recommend_settings import PromptOrder


@dataclass(frozen=True, slots=True)
class StageCost:
    """Estimated cost of one stage.

    Attributes:
        stage: Name of the stage in the manifest.
        backend: Name of the backend that answers its prompts.
        calls: Model calls. Prompts that are known to be equal count once.
        cached_calls: Prompts that the response cache answers, because they repeat earlier ones.
        prompt_tokens: Input tokens, including image tokens.
        image_tokens: Input tokens that belong to images.
        longest_prompt: Input tokens of the longest prompt in the sample.
        images: Images in the prompts.
        largest_image: Most tokens of an image in the sample.
        shared_tokens: Input tokens that a backend with prefix sharing does not compute again.
        output_tokens: Generated tokens.
        seconds: Duration at the given or measured rate; None without a rate.
        price: Price in the currency of `plan.*_price`; 0 if the model runs locally.
        disk_bytes: Size of the cached responses.
        memory_bytes: Peak memory of a model in this process; None if it is unknown.
        done: Whether the stage is finished, so that it has no further cost.
    """

    stage: str
    backend: str
    calls: int = 0
    cached_calls: int = 0
    prompt_tokens: int = 0
    image_tokens: int = 0
    longest_prompt: int = 0
    images: int = 0
    largest_image: int = 0
    shared_tokens: int = 0
    output_tokens: int = 0
    seconds: float | None = None
    price: float = 0.0
    disk_bytes: int = 0
    memory_bytes: int | None = None
    done: bool = False

    @property
    def tokens_per_prompt(self) -> int:
        """Return the mean number of input tokens of a prompt."""
        return round(self.prompt_tokens / max(1, self.calls))

    @property
    def tokens_per_image(self) -> int:
        """Return the mean number of tokens of an image; 0 without images."""
        return round(self.image_tokens / max(1, self.images))


@dataclass(frozen=True, slots=True)
class OrderCost:
    """Tokens to compute in each order of the ranker's prompt, with shared prefixes.

    Attributes:
        work: Kind of work, for a table.
        item_first: Tokens with `recommend.order=item-first`.
        user_first: Tokens with `recommend.order=user-first`.
    """

    work: str
    item_first: int
    user_first: int

    @property
    def cheaper(self) -> PromptOrder:
        """Return the order with fewer tokens; the default if they are equal."""
        return "user-first" if self.user_first < self.item_first else "item-first"


@dataclass(frozen=True, slots=True)
class ListCalls:
    """Model calls of one recommendation list.

    Attributes:
        calls: Candidates that the model scores; with adaptive scoring, at most as many.
        reason: How lists are made, and why with this number, in sentences.
    """

    calls: int
    reason: str


@dataclass(frozen=True, slots=True)
class CostReport:
    """Estimated cost of a run.

    Attributes:
        stages: Every stage that calls a model, in the order of the pipeline.
        counted_by: How prompts were counted.
        lengths_by: Source of the output lengths: "responses of this run", a pilot, or the limits
            in the settings.
        orders: Comparison of the orders of the ranker's prompt.
        lists: Calls of the list that the comparison includes; None if it includes none.
    """

    stages: tuple[StageCost, ...]
    counted_by: str
    lengths_by: str
    orders: tuple[OrderCost, ...] = ()
    lists: ListCalls | None = None

    @property
    def tokens(self) -> int:
        """Return the input and output tokens of unfinished stages, training excluded."""
        trained = ("align", "train")
        stages = (s for s in self.stages if not s.done and not s.stage.startswith(trained))
        return sum(stage.prompt_tokens + stage.output_tokens for stage in stages)

    @property
    def price(self) -> float:
        """Return the price of unfinished stages."""
        return sum(stage.price for stage in self.stages if not stage.done)

    @property
    def hours(self) -> float | None:
        """Return the hours of unfinished stages; None if a rate is unknown."""
        total = 0.0
        for stage in self.stages:
            if not stage.done:
                if stage.seconds is None:
                    return None
                total += stage.seconds
        return total / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values."""
        remaining = {"tokens": self.tokens, "price": self.price, "hours": self.hours}
        orders = [{**asdict(order), "cheaper": order.cheaper} for order in self.orders]
        stages = [
            {
                **asdict(stage),
                "tokens_per_prompt": stage.tokens_per_prompt,
                "tokens_per_image": stage.tokens_per_image,
            }
            for stage in self.stages
        ]
        return {**asdict(self), "stages": stages, "orders": orders, "remaining": remaining}
