"""Section `train` of the settings; `config/settings.py` describes all others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mllm_msr.config.fields import Distinct, Fraction, Section

# Types of training settings that function signatures in `ranker` use as well.
TuningMethod = Literal["lora", "full", "frozen-lower-layers"]
# What training writes: an adapter in PEFT's format, or all weights of the model.
WeightFormat = Literal["lora", "full"]
TrainingObjective = Literal["pointwise", "listwise"]
LoraInit = Literal["default", "gaussian"]
LoraTarget = Literal["language", "all-linear"] | tuple[str, ...]
LearningRateScheduler = Literal["cosine", "constant"]
Precision = Literal["bf16", "fp16", "fp32"]
TrainingLoss = Literal["answer", "full"]
TrackerName = Literal["tensorboard", "csv", "wandb", "mlflow", "trackio"]

_DTYPES: Final[Mapping[Precision, Literal["bfloat16", "float16", "float32"]]] = MappingProxyType(
    {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
)


class TrainSettings(Section):
    """Supervised fine-tuning of the ranker.

    The only declaration of these settings: the trainer takes this object.
    """

    enabled: bool = Field(True, description="false leaves only the zero-shot recommender")
    method: TuningMethod = Field(
        "lora",
        description="what is trained: adapters, all weights of the language model, or only those "
        "of its upper layers",
    )
    upper_layers: PositiveInt = Field(
        8, description="number of layers that are trained with method=frozen-lower-layers"
    )
    rank: PositiveInt = Field(8, description="rank of the LoRA matrices")
    alpha: PositiveInt = Field(16, description="LoRA scale is alpha / rank")
    dropout: Fraction = Field(0.05, description="dropout before the LoRA matrices")
    init: LoraInit = Field("default", description="LoRA initialization")
    target: LoraTarget = Field(
        "language", description="layers that get LoRA; all-linear includes the vision tower"
    )
    objective: TrainingObjective = Field(
        "pointwise",
        description="cross-entropy of yes and no (the paper); or softmax over the candidates of a "
        "target, plus a share of the former",
    )
    pointwise_share: Annotated[float, Field(ge=0)] = Field(
        0.2,
        description="weight of the cross-entropy of yes and no in the listwise objective, so that "
        "P(yes) keeps its meaning",
    )
    negatives_per_positive: PositiveInt | None = Field(
        None,
        description="negatives per target, drawn anew for training; null uses the candidates of "
        "the stage prepare (data.train_negatives)",
    )
    popularity_negatives: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="share of these negatives that are drawn in proportion to popularity; the "
        "others are uniform",
    )
    targets_per_user: PositiveInt | None = Field(
        None,
        description="targets per training user, spread over the history; null uses all of "
        "data.train_targets",
    )
    max_targets: PositiveInt | None = Field(
        None, description="size of a random sample of the training targets"
    )
    learning_rate: PositiveFloat = Field(1e-4, description="peak learning rate of AdamW")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay of AdamW")
    batch_size: PositiveInt = Field(
        8, description="examples (listwise: targets) per forward pass and device"
    )
    accumulate: PositiveInt = Field(1, description="forward passes per optimizer step and device")
    epochs: PositiveFloat = Field(
        3, description="passes over the training examples; fractions are allowed"
    )
    max_steps: PositiveInt | None = Field(None, description="upper bound on optimizer steps")
    warmup: Fraction = Field(0.03, description="fraction of the steps used for warm-up")
    scheduler: LearningRateScheduler = Field(
        "cosine", description="learning rate schedule after the warm-up"
    )
    clip: PositiveFloat | None = Field(
        1.0, description="maximum gradient norm; null disables clipping"
    )
    precision: Precision = Field(
        "bf16", description="precision of matrix products; fp16 needs a GPU"
    )
    loss: TrainingLoss = Field("answer", description="loss on the answer only, or on all text")
    max_text_tokens: PositiveInt | None = Field(
        512, description="token budget of a prompt's text; the preference is cut to meet it"
    )
    validate_every: PositiveInt | None = Field(
        None, description="optimizer steps between validations; null validates once per epoch"
    )
    early_stopping_patience: PositiveInt = Field(
        3, description="validations without improvement before training stops"
    )
    checkpoint_every: PositiveInt = Field(
        100, description="optimizer steps between saved training states"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations: less memory, more time"
    )
    cache_vision: bool = Field(
        True, description="encode each image once, and each shared prefix once per batch"
    )
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2"] = Field(
        "auto", description="how several devices share the training"
    )
    devices: PositiveInt | Literal["auto"] = Field("auto", description="devices per machine")
    nodes: PositiveInt = Field(1, description="machines; several are started by torchrun")
    loggers: Distinct[TrackerName] = Field(
        (), description="trackers that also get the metrics of the training and of finished stages"
    )
    seed: NonNegativeInt = Field(0, description="seed of LoRA weights, data order and dropout")

    @model_validator(mode="before")
    @classmethod
    def _read_former_name(cls, values: Any) -> Any:
        """Read `tensorboard`, which runs of earlier versions saved, as one of the loggers."""
        if not isinstance(values, dict) or not isinstance(values.get("tensorboard"), bool):
            return values
        values = dict(values)
        if values.pop("tensorboard"):
            values["loggers"] = [*values.get("loggers", ()), "tensorboard"]
        return values

    @field_validator("popularity_negatives")
    @classmethod
    def _require_own_negatives(cls, share: float, info: ValidationInfo) -> float:
        if share and info.data.get("negatives_per_positive") is None:
            raise PydanticCustomError(
                "prepared_negatives",
                "The stage prepare draws uniform negatives. Set train.negatives_per_positive as "
                "well.",
            )
        return share

    @property
    def weight_format(self) -> WeightFormat:
        """Return the format of the weights that training writes."""
        return "lora" if self.method == "lora" else "full"

    @property
    def dtype(self) -> Literal["bfloat16", "float16", "float32"]:
        """Return the data type of the loaded weights: full fine-tuning needs float32."""
        return "float32" if self.weight_format == "full" else _DTYPES[self.precision]

    @field_validator("loss")
    @classmethod
    def _require_pointwise(cls, loss: str, info: ValidationInfo) -> str:
        if loss == "full" and info.data.get("objective") == "listwise":
            raise PydanticCustomError(
                "listwise_full",
                "The listwise objective compares answers. Set train.loss=answer or "
                "train.objective=pointwise.",
            )
        return loss

    @field_validator("strategy")
    @classmethod
    def _require_loss_scaling(cls, strategy: str, info: ValidationInfo) -> str:
        if strategy == "fsdp" and info.data.get("precision") == "fp16":
            raise PydanticCustomError(
                "fsdp_fp16", "FSDP has no loss scaling for fp16. Set train.precision to bf16."
            )
        return strategy
