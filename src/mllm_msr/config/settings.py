"""Schema of all settings: type, default value and description of each.

`config/loading.py` creates these objects from presets, files and the command line. Command help and
`docs/settings.md` are generated from the descriptions. All objects are frozen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mllm_msr.config.align_settings import AlignSettings
from mllm_msr.config.distill_settings import DistillSettings
from mllm_msr.config.fields import Fraction, LanguageName, Names, OpenSection, Section, Some
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.config.retrieve_settings import RetrieveSettings
from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.prompts.item_types import PromptStyle

# Name that clients of the service and its metrics use.
ServedName = Annotated[str, Field(pattern=r"^[\w.-]{1,40}$")]
# Models of the service that are not further runs.
OWN_MODELS: Final = frozenset({"run", "zero_shot"})


class DataSettings(OpenSection):
    """Reading, filtering, splitting and sampling. Additional keys are arguments of the dataset."""

    min_user_interactions: PositiveInt = Field(5, description="k-core: minimum per user")
    min_item_interactions: PositiveInt = Field(5, description="k-core: minimum per item")
    duplicates: Literal["first", "last", "keep"] = Field(
        "first", description="which of a user's repeated interactions with an item to keep"
    )
    max_users: PositiveInt | None = Field(None, description="size of a random sample of users")
    user_sample: Literal["before-filter", "after-filter"] = Field(
        "before-filter", description="sample users before or after the filter to the k-core"
    )
    protocol: Literal["leave-last-out", "released-code"] = Field(
        "leave-last-out",
        description="how targets are chosen; released-code follows the paper's code and leaks",
    )
    folds: PositiveInt = Field(5, description="folds of the cross-validation over users")
    run_folds: Some[NonNegativeInt] | None = Field(None, description="folds to run; null runs all")
    validation_fraction: Fraction = Field(
        0.1, description="fraction of a fold's remaining users for checkpoint selection"
    )
    negatives: Some[Literal["uniform", "popularity"]] = Field(
        ("uniform", "popularity"), description="how validation and test negatives are sampled"
    )
    n_negatives: PositiveInt = Field(20, description="validation and test negatives per positive")
    train_negatives: PositiveInt = Field(1, description="training negatives per positive")
    train_targets: Literal["last", "blocks", "all"] = Field(
        "blocks",
        description="targets of training users: last item; also one after each block; or all items",
    )
    max_test_users: PositiveInt | None = Field(None, description="random sample of test users")
    max_validation_users: PositiveInt | None = Field(
        None, description="size of a random sample of validation users"
    )
    seed: NonNegativeInt = Field(0, description="seed of splits and negatives")


class ImagesSettings(Section):
    """Images of items: copies in the run folder, and downloads of linked images."""

    store: bool = Field(
        True, description="copy images into the run folder, so that it can be moved and shared"
    )
    max_side: Annotated[int, Field(ge=32)] = Field(
        1024, description="larger images are stored with at most this many pixels per side"
    )
    per_item: PositiveInt = Field(
        1, description="images of an item that models read, of those that the source lists"
    )
    download: bool = Field(False, description="download linked images into the run folder")
    allowed_hosts: Names = Field(
        (
            "m.media-amazon.com",
            "images-na.ssl-images-amazon.com",
            "ecx.images-amazon.com",
            "g-ecx.images-amazon.com",
        ),
        description="hosts to download from, over HTTPS only",
    )
    max_bytes: PositiveInt = Field(
        20_000_000, description="largest file that is read or downloaded, in bytes"
    )
    concurrency: PositiveInt = Field(8, description="parallel downloads")


class PromptsSettings(Section):
    """Prompts of all stages."""

    folder: Path | None = Field(
        None, description="folder with templates that replace those of the package"
    )
    language: LanguageName = Field(
        "English", description="language of the texts that models write, by its English name"
    )
    style: PromptStyle = Field(
        "plain",
        description="few_shot shows two worked examples before each prompt for a text summary, a "
        "combined summary or a preference; English only",
    )


class ModelSettings(OpenSection):
    """Model that answers prompts. Additional keys are arguments of the backend."""

    # Not saved: `config/loading.py` replaces it by the settings of the preset.
    preset: str | None = Field(
        None, exclude=True, description="name from `mllm-msr list models`; other settings override"
    )
    backend: str = Field("demo", description="name from `mllm-msr list backends`")


class ExecutorSettings(Section):
    """Where summarize, infer and score run their models. The results do not depend on it."""

    name: Literal["local", "ray"] = Field("local", description="in this process, or on Ray workers")
    address: str = Field(
        "local", description="local starts Ray on this machine; otherwise auto or an address"
    )
    workers: PositiveInt = Field(2, description="Ray workers, each with its own backend")
    cpus: PositiveFloat = Field(1.0, description="CPU cores reserved per worker")
    gpus: Annotated[float, Field(ge=0)] = Field(0.0, description="GPUs reserved per worker")
    batch: PositiveInt = Field(64, description="prompts sent to a worker at a time")
    startup_timeout: PositiveFloat = Field(
        300.0, description="seconds to wait for the first worker"
    )


class SummarizeSettings(Section):
    """Summarization of items."""

    enabled: bool = Field(True, description="false skips the stage, if nothing reads summaries")
    modalities: Some[Literal["text", "image"]] = Field(
        ("text", "image"), description="modalities of an item that are summarized"
    )
    text_words: PositiveInt = Field(40, description="length limit of text summaries, in words")
    image_words: PositiveInt = Field(40, description="length limit of image descriptions, in words")
    words: PositiveInt = Field(60, description="length limit of combined summaries, in words")
    max_text_tokens: PositiveInt | None = Field(
        1024, description="token budget of a prompt's text; text and title of the item are cut"
    )
    scope: Literal["all", "read"] = Field(
        "all", description="all items, or only those that preference inference reads"
    )
    model: ModelSettings | None = Field(
        None,
        description="model of this stage; null uses `model`. Without a backend of its own, it has "
        "the settings of `model` that it does not change",
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `summarization.items.summarize`."""
        return self.model_dump(exclude={"enabled", "model", "scope"})


class InferSettings(Section):
    """Inference of preferences."""

    enabled: bool = Field(True, description="false skips the stage, if nothing reads preferences")
    method: Literal["recurrent", "direct"] = Field(
        "recurrent", description="block by block, or the whole history in one prompt"
    )
    block_size: PositiveInt = Field(3, description="items per block")
    max_items: PositiveInt | None = Field(
        None, description="number of latest items of a history to read; null reads all"
    )
    words: PositiveInt = Field(80, description="length limit of preferences, in words")
    use_images: bool = Field(True, description="false reads text summaries only")
    model: ModelSettings | None = Field(
        None,
        description="model of this stage; null uses `model`. Without a backend of its own, it has "
        "the settings of `model` that it does not change",
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `summarization.preferences.infer_preferences`."""
        return self.model_dump(exclude={"enabled", "model"})


class ScoreSettings(Section):
    """Scoring of test candidates."""

    zero_shot: bool = Field(True, description="also score with the model before fine-tuning")
    baselines: Names = Field(("popularity",), description="baselines to score")
    full_users: NonNegativeInt = Field(
        500,
        description="test users per fold for whom baselines rank the full catalog; 0 for none",
    )
    full_users_mllm: NonNegativeInt = Field(
        0,
        description="the same for recommenders that call a language model, once per item",
    )
    max_error_rate: Fraction = Field(0.01, description="share of prompts that may fail")
    model: ModelSettings | None = Field(
        None, description="another backend for the recommender's weights and adapters"
    )


class BaselinesSettings(OpenSection):
    """Arguments of baselines. Additional keys are their names ("baselines.sasrec.epochs=8")."""

    content: Literal["all", "text", "image", "image_summary"] = Field(
        "all",
        description="item content that baselines read; image_summary replaces text and image",
    )

    def arguments(self, name: str) -> dict[str, Any]:
        """Return the constructor arguments of a baseline, by its name."""
        return dict(self.plugin_kwargs().get(name, {}))


class EvaluateSettings(Section):
    """Metrics and confidence intervals."""

    ks: Some[PositiveInt] = Field((1, 3, 5, 10, 20), description="cut-offs k of the metrics")
    n_resamples: PositiveInt = Field(2000, description="bootstrap samples of users")
    seed: NonNegativeInt = Field(0, description="seed of the bootstrap")


class ReportSettings(Section):
    """Report of a run."""

    case_studies: NonNegativeInt = Field(4, description="users shown in detail")
    seed: NonNegativeInt = Field(0, description="seed for choosing these users")


class VariantSettings(Section):
    """Variant of an A/B test: how a list is made."""

    model: str = Field("run", description="ranking model, one of /v1/models")
    budget: NonNegativeInt | None = Field(
        None, description="candidates that the model scores; null uses `retrieve.budget`"
    )
    share: PositiveFloat = Field(1.0, description="weight in the assignment of users")


class ServeSettings(Section):
    """HTTP service."""

    update: Literal["block", "event"] = Field(
        "block", description="when to update preferences: after a block of events, or after each"
    )
    update_retries: NonNegativeInt = Field(4, description="retries of a failed preference update")
    update_wait: PositiveFloat = Field(
        2.0, description="seconds before the first retry; doubles with each one, at most 60"
    )
    # Neither saved nor displayed, because it may contain a password.
    state: str | None = Field(
        None,
        exclude=True,
        repr=False,
        description="database URL, not saved with the run; null uses an SQLite file in the run "
        "folder",
    )
    model_timeout: PositiveFloat = Field(
        5.0, description="seconds after which a request is answered without the model"
    )
    max_queue: PositiveInt = Field(
        2000, description="prompts that may wait; beyond it requests get status 429"
    )
    max_batch: PositiveInt = Field(64, description="prompts of several requests scored together")
    copies: PositiveInt | None = Field(
        None,
        description="copies of the ranking model in memory, each with its own thread; null means "
        "one, or for the demo model on a CPU one per core, at most 4",
    )
    max_body: PositiveInt = Field(
        1_000_000, description="largest request body, in bytes, except that of a new item"
    )
    max_item_body: PositiveInt = Field(
        8_000_000, description="largest request body of a new item with its image, in bytes"
    )
    max_pixels: PositiveInt = Field(
        16_000_000, description="largest width times height of an image that is decoded"
    )
    request_timeout: PositiveFloat = Field(
        20.0, description="seconds within which a request must arrive completely"
    )
    warm_items: NonNegativeInt = Field(
        500,
        description="popular items whose images a model in this process encodes before the first "
        "request",
    )
    score_cache_size: NonNegativeInt = Field(200_000, description="scores kept in memory")
    shutdown_timeout: PositiveFloat = Field(
        20.0, description="seconds that a shutdown waits for open requests"
    )
    models: dict[ServedName, Path] = Field(
        {}, description="run folders whose ranking models are served as well, by name"
    )
    experiment: ServedName | None = Field(
        None, description="name of a running A/B test; null for none"
    )
    variants: dict[ServedName, VariantSettings] = Field(
        {},
        description="variants of the test by name, each with `model`, `budget` and `share`; users "
        "are assigned by a hash",
    )

    @model_validator(mode="after")
    def _require_variants(self) -> Self:
        if self.experiment is not None and len(self.variants) < 2:
            raise PydanticCustomError(
                "variants", "An experiment needs at least two serve.variants."
            )
        if taken := OWN_MODELS.intersection(self.models):
            problem = f"The name {min(taken)} in serve.models is taken. Choose another one."
            raise PydanticCustomError("models", problem)
        return self


class PlanSettings(Section):
    """Cost estimate of a run, and budgets that trigger a warning."""

    sample: PositiveInt = Field(
        200, description="items, users and candidates whose prompts are counted"
    )
    pilot: NonNegativeInt = Field(
        0, description="items and users to run the model on, to measure lengths and speed"
    )
    prompt_price: Annotated[float, Field(ge=0)] = Field(
        0.0, description="price of an endpoint per million input tokens"
    )
    output_price: Annotated[float, Field(ge=0)] = Field(
        0.0, description="price of an endpoint per million output tokens"
    )
    prompt_rate: PositiveFloat | None = Field(
        None, description="input tokens/s; null uses the pilot's"
    )
    output_rate: PositiveFloat | None = Field(
        None, description="output tokens/s; null uses the pilot's"
    )
    budget_price: PositiveFloat | None = Field(None, description="warn if a run costs more")
    budget_hours: PositiveFloat | None = Field(None, description="warn if a run takes longer")
    budget_tokens: PositiveInt | None = Field(None, description="warn if a run needs more tokens")


class Settings(Section):
    """All settings of a run."""

    preset: str = Field("default", description="preset that the settings started from")
    dataset: str = Field("demo", description="name from `mllm-msr list datasets`")
    item_type: str | None = Field(
        None,
        description='what prompts call an item, a word or its forms ("mouse/mice"); null uses '
        "the dataset's word",
    )
    data: DataSettings = DataSettings()
    images: ImagesSettings = ImagesSettings()
    prompts: PromptsSettings = PromptsSettings()
    model: ModelSettings = ModelSettings()
    executor: ExecutorSettings = ExecutorSettings()
    align: AlignSettings = AlignSettings()
    summarize: SummarizeSettings = SummarizeSettings()
    infer: InferSettings = InferSettings()
    recommend: RecommendSettings = RecommendSettings()
    train: TrainSettings = TrainSettings()
    distill: DistillSettings = DistillSettings()
    score: ScoreSettings = ScoreSettings()
    baselines: BaselinesSettings = BaselinesSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    report: ReportSettings = ReportSettings()
    retrieve: RetrieveSettings = RetrieveSettings()
    serve: ServeSettings = ServeSettings()
    plan: PlanSettings = PlanSettings()

    def models(self) -> dict[str, ModelSettings]:
        """Return the models of a run by the setting that selects them."""
        models = {
            "model": self.model,
            "summarize.model": self.summarize.model,
            "infer.model": self.infer.model,
            "score.model": self.score.model,
        }
        return {name: model for name, model in models.items() if model is not None}

    def to_yaml(self) -> str:
        """Return all settings as YAML that `load_settings` can read."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
