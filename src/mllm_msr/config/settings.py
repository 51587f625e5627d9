"""Every setting, with its type, its default and what it means: the one schema.

`config/loading.py` fills these classes; the command line's help and the settings reference are made from
them. They are frozen, and only `pipeline/pipeline.py` and `cli` read them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]

# Values of training settings that signatures below `ranker` use, too.
TuningMethod = Literal["lora", "full"]
LoraInit = Literal["default", "gaussian"]
LoraTarget = Literal["language", "all-linear"] | tuple[str, ...]
LearningRateScheduler = Literal["cosine", "constant"]
Precision = Literal["bf16", "fp16", "fp32"]
TrainingLoss = Literal["answer", "full"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _OpenSection(BaseModel):
    """A section whose further keys go to a class that the registry names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def plugin_kwargs(self) -> dict[str, Any]:
        """The keys that are not fields of this section."""
        return dict(self.model_extra or {})


class DataSettings(_OpenSection):
    """What is read, filtered, split and drawn. Further keys go to the data set itself."""

    min_user_interactions: PositiveInt = Field(5, description="k-core: interactions a user needs")
    min_item_interactions: PositiveInt = Field(5, description="k-core: interactions an item needs")
    duplicates: Literal["first", "last", "keep"] = Field(
        "first", description="which of a user's repeated interactions with an item stays"
    )
    max_users: PositiveInt | None = Field(None, description="seeded sample of users, for trials")
    protocol: Literal["leave-last-out", "released-code"] = Field(
        "leave-last-out",
        description="how targets are chosen; released-code is the released code's (unsound)",
    )
    folds: PositiveInt = Field(5, description="folds of the cross-validation over users")
    run_folds: tuple[NonNegativeInt, ...] | None = Field(
        None, description="folds that are run; all where empty"
    )
    validation_fraction: Fraction = Field(
        0.1, description="share of a fold's other users that chooses the checkpoint"
    )
    negatives: tuple[Literal["uniform", "popularity"], ...] = Field(
        ("uniform", "popularity"), description="how validation and test negatives are drawn"
    )
    n_negatives: PositiveInt = Field(20, description="negatives per positive, validation and test")
    train_negatives: PositiveInt = Field(1, description="negatives per positive in training")
    train_targets: Literal["last", "blocks", "all"] = Field(
        "blocks", description="training users' targets: last item, also after each block, or all"
    )
    max_test_users: PositiveInt | None = Field(None, description="seeded sample of test users")
    max_validation_users: PositiveInt | None = Field(
        None, description="seeded sample of validation users"
    )
    seed: NonNegativeInt = Field(0, description="seed of the split and of the negatives")


class ImagesSettings(_Section):
    """Images that a data set only links to."""

    download: bool = Field(False, description="fetch linked images into the run folder")
    allowed_hosts: tuple[str, ...] = Field(
        (
            "m.media-amazon.com",
            "images-na.ssl-images-amazon.com",
            "ecx.images-amazon.com",
            "g-ecx.images-amazon.com",
        ),
        description="hosts that may be asked, over https only",
    )
    max_bytes: PositiveInt = Field(20_000_000, description="largest image, in bytes")
    concurrency: PositiveInt = Field(8, description="downloads at a time")


class ModelSettings(_OpenSection):
    """The model that answers prompts. Further keys go to the backend itself."""

    backend: str = Field("demo", description="a name of `mllm-msr list backends`")


class ExecutorSettings(_Section):
    """Where the prompts of summarize, infer and score are answered; the results are the same."""

    name: Literal["local", "ray"] = Field(
        "local", description="in this process, or by workers that Ray starts"
    )
    address: str = Field(
        "local", description="workers of this machine, auto, or a Ray cluster's address"
    )
    workers: PositiveInt = Field(2, description="workers, each with a backend of its own")
    cpus: PositiveFloat = Field(1.0, description="cores set aside for each worker")
    gpus: Annotated[float, Field(ge=0)] = Field(
        0.0, description="GPUs set aside for each worker; may be a part of one"
    )
    batch: PositiveInt = Field(64, description="prompts that a worker is given at a time")
    startup_timeout: PositiveFloat = Field(
        300.0, description="seconds within which the first worker must have started"
    )


class SummarizeSettings(_Section):
    """Item summaries."""

    modalities: tuple[Literal["text", "image"], ...] = Field(
        ("text", "image"), description="sides of an item that are read"
    )
    text_words: PositiveInt = Field(40, description="length limit of text summaries, in words")
    image_words: PositiveInt = Field(40, description="length limit of descriptions, in words")
    words: PositiveInt = Field(60, description="length limit of joint summaries, in words")
    scope: Literal["all", "read"] = Field(
        "all", description="every item, or only those that preferences will read"
    )
    model: ModelSettings | None = Field(None, description="another model for this stage")


class InferSettings(_Section):
    """Preferences."""

    method: Literal["recurrent", "direct"] = Field(
        "recurrent", description="block by block, or the whole history in one prompt"
    )
    block_size: PositiveInt = Field(3, description="items per block")
    max_items: PositiveInt | None = Field(
        None, description="read only so many items of a history, the latest"
    )
    words: PositiveInt = Field(80, description="length limit of preferences, in words")
    use_images: bool = Field(True, description="false reads text summaries alone")
    model: ModelSettings | None = Field(None, description="another model for this stage")


class TrainSettings(_Section):
    """Supervised fine-tuning of the ranker.

    The only declaration of these settings: the trainer takes this object.
    """

    enabled: bool = Field(True, description="false leaves only the zero-shot recommender")
    method: TuningMethod = Field("lora", description="adapters, or all language model weights")
    rank: PositiveInt = Field(8, description="rank of the LoRA matrices")
    alpha: PositiveInt = Field(16, description="LoRA scale is alpha / rank")
    dropout: Fraction = Field(0.05, description="dropout before the LoRA matrices")
    init: LoraInit = Field("default", description="LoRA initialization")
    target: LoraTarget = Field(
        "language", description="layers that get LoRA; all-linear includes the vision tower"
    )
    learning_rate: PositiveFloat = Field(2e-5, description="peak learning rate of AdamW")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay of AdamW")
    batch_size: PositiveInt = Field(8, description="examples per forward pass and device")
    accumulate: PositiveInt = Field(1, description="forward passes per optimizer step and device")
    epochs: PositiveFloat = Field(
        3, description="passes over the training examples; fractions are allowed"
    )
    max_steps: PositiveInt | None = Field(None, description="upper bound on optimizer steps")
    warmup: Fraction = Field(0.03, description="fraction of the steps that warm up")
    scheduler: LearningRateScheduler = Field("cosine", description="after the warm-up")
    clip: PositiveFloat | None = Field(1.0, description="largest gradient norm")
    precision: Precision = Field("bf16", description="of matrix products; fp16 needs a GPU")
    loss: TrainingLoss = Field("answer", description="on the answer, or on all text")
    max_text_tokens: PositiveInt | None = Field(
        None, description="budget of a prompt's text; the preference is cut to meet it"
    )
    validate_every: PositiveInt | None = Field(
        None, description="optimizer steps between validations; once per epoch where empty"
    )
    early_stopping_patience: PositiveInt = Field(
        3, description="validations without improvement before training stops"
    )
    checkpoint_every: PositiveInt = Field(
        100, description="optimizer steps between saved training states"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for more time")
    cache_vision: bool = Field(
        True, description="encode each image once, and each shared prefix once per batch"
    )
    strategy: Literal["auto", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2"] = Field(
        "auto", description="how several devices share the training"
    )
    devices: PositiveInt | Literal["auto"] = Field("auto", description="devices per machine")
    nodes: PositiveInt = Field(1, description="machines; several are started by torchrun")
    tensorboard: bool = Field(False, description="write TensorBoard files as well")
    seed: NonNegativeInt = Field(0, description="seed of LoRA weights, data order and dropout")

    @field_validator("strategy")
    @classmethod
    def _require_loss_scaling(cls, strategy: str, info: ValidationInfo) -> str:
        if strategy == "fsdp" and info.data.get("precision") == "fp16":
            raise PydanticCustomError(
                "fsdp_fp16", "FSDP has no loss scaling for fp16. Set train.precision to bf16."
            )
        return strategy


class ScoreSettings(_Section):
    """Scoring of candidates."""

    zero_shot: bool = Field(True, description="also score with the model before fine-tuning")
    baselines: tuple[str, ...] = Field(("popularity",), description="baselines scored beside it")
    joined: tuple[Literal["mllm_msr", "zero_shot"], ...] = Field(
        ("mllm_msr",), description="MLLM recommenders that hybrid joins, where they have scored"
    )
    full_users: NonNegativeInt = Field(
        500,
        description="test users per fold for whom baselines rank the full catalogue; 0 for none",
    )
    full_users_mllm: NonNegativeInt = Field(
        0,
        description="the same for the MLLM and baselines that ask one, a model call per item each",
    )
    max_error_rate: Fraction = Field(0.01, description="failed prompts that are tolerated")
    model: ModelSettings | None = Field(
        None, description="another engine for the recommender's weights and adapters"
    )


class BaselinesSettings(_OpenSection):
    """Arguments of baselines: further keys are their names ("baselines.sasrec.learning_rate=1e-3")."""

    content: Literal["all", "text", "image", "image_summary"] = Field(
        "all", description="what baselines may read of items; image_summary replaces all the rest"
    )

    def arguments(self, name: str) -> dict[str, Any]:
        """What a baseline's constructor gets, by the baseline's name."""
        return dict(self.plugin_kwargs().get(name, {}))


class EvaluateSettings(_Section):
    """Metrics and intervals."""

    ks: tuple[PositiveInt, ...] = Field((1, 3, 5, 10, 20), description="cut-offs of HR, MRR, NDCG")
    n_resamples: PositiveInt = Field(2000, description="bootstrap samples of users")
    seed: NonNegativeInt = Field(0, description="seed of the bootstrap")


class ReportSettings(_Section):
    """The report."""

    case_studies: NonNegativeInt = Field(4, description="users whose case_study is told")
    seed: NonNegativeInt = Field(0, description="seed of the choice of users")


class RetrieveSettings(_Section):
    """Recommendations out of the whole catalogue."""

    generators: tuple[Literal["preference", "collaborative", "recent"], ...] = Field(
        ("preference", "collaborative", "recent"), description="where candidates come from"
    )
    encoder: str = Field(
        "hashing", description="text encoder: hashing, or a Transformers text model's folder or id"
    )
    collaborative: str | None = Field(
        None, description="baseline that proposes; item_knn where it exists, else popularity"
    )
    recent_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.2, description="share of the interactions, the latest, that counts as recent"
    )
    recent_weight: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3,
        description="vote of what is popular of late, beside 1 of each source that knows the user",
    )
    depth: PositiveInt = Field(200, description="items asked of each source")
    budget: NonNegativeInt = Field(50, description="candidates that the MLLM ranks per request")
    order: Literal["fusion", "model"] = Field(
        "fusion", description="the MLLM's ranking is one vote beside the sources', or decides alone"
    )
    diversity: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="weight of variety in the list (MMR); 0 is relevance alone"
    )
    prefix_cache_bytes: NonNegativeInt = Field(
        1_000_000_000,
        description="memory for what a model of this process has read of the items' images",
    )


class ServeSettings(_Section):
    """The service."""

    update: Literal["block", "event"] = Field(
        "block", description="when preferences follow events: at a block's end, or at each event"
    )
    update_retries: NonNegativeInt = Field(
        4, description="how often a preference update that failed is tried again"
    )
    update_wait: PositiveFloat = Field(
        2.0, description="seconds before the first of these, doubled for each later one, at most 60"
    )
    state: str | None = Field(
        None, description="database URL; an SQLite file in the run folder where empty"
    )
    model_timeout: PositiveFloat = Field(
        5.0, description="seconds after which an answer does without the model"
    )
    max_queue: PositiveInt = Field(
        2000, description="prompts that may wait; beyond, requests are refused with 429"
    )
    max_batch: PositiveInt = Field(64, description="prompts of several requests scored together")
    copies: PositiveInt | None = Field(
        None,
        description="how often the ranking model stands in memory, each copy with a thread of its "
        "own; where empty once, and the packaged model on a CPU once for each core, at most 4",
    )
    max_body: PositiveInt = Field(8_000_000, description="largest request body, in bytes")
    warm_items: NonNegativeInt = Field(
        500,
        description="items, the most popular first, whose images a model of this process reads "
        "before users ask",
    )
    score_cache_size: NonNegativeInt = Field(200_000, description="scores kept in memory")
    shutdown_timeout: PositiveFloat = Field(
        20.0, description="seconds that a shutdown waits for requests"
    )


class PlanSettings(_Section):
    """The bill before the run, and when to warn of it."""

    sample: PositiveInt = Field(200, description="items, users and candidates that are measured")
    pilot: NonNegativeInt = Field(
        0, description="items and users that the model really answers, for lengths and speed"
    )
    prompt_price: Annotated[float, Field(ge=0)] = Field(
        0.0, description="price of a million tokens read, where an endpoint answers"
    )
    output_price: Annotated[float, Field(ge=0)] = Field(
        0.0, description="price of a million tokens written, where an endpoint answers"
    )
    prompt_rate: PositiveFloat | None = Field(
        None, description="tokens read per second; measured by the pilot where empty"
    )
    output_rate: PositiveFloat | None = Field(
        None, description="tokens written per second; measured by the pilot where empty"
    )
    budget_price: PositiveFloat | None = Field(None, description="warn where a run costs more")
    budget_hours: PositiveFloat | None = Field(None, description="warn where a run takes longer")
    budget_tokens: PositiveInt | None = Field(
        None, description="warn where a run reads and writes more tokens"
    )


class Settings(_Section):
    """All settings of a run."""

    preset: str = Field("default", description="the preset that the settings started from")
    dataset: str = Field("demo", description="a name of `mllm-msr list datasets`")
    item_type: str | None = Field(
        None, description="what an item is called; the data set's if empty"
    )
    data: DataSettings = DataSettings()
    images: ImagesSettings = ImagesSettings()
    model: ModelSettings = ModelSettings()
    executor: ExecutorSettings = ExecutorSettings()
    summarize: SummarizeSettings = SummarizeSettings()
    infer: InferSettings = InferSettings()
    train: TrainSettings = TrainSettings()
    score: ScoreSettings = ScoreSettings()
    baselines: BaselinesSettings = BaselinesSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    retrieve: RetrieveSettings = RetrieveSettings()
    serve: ServeSettings = ServeSettings()
    plan: PlanSettings = PlanSettings()

    def to_yaml(self) -> str:
        """All settings as YAML, as `config.load_settings` reads them."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
