"""Settings without an effect, because another setting switches off what reads them.

`config/loading.py` warns about those that a user gives. Presets may contain them: they have an
effect again if the user changes the other setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mllm_msr.config.generators import candidate_generators
from mllm_msr.config.nested import lookup
from mllm_msr.config.problems import displayed
from mllm_msr.config.settings import Settings

# The change that gives settings an effect, whether they have it already, and the settings. The
# change is the first one of several that would do.
Need = tuple[str, Callable[[Settings], bool], tuple[str, ...]]


def _section(name: str, *, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the settings of a section, without some of them."""
    fields = type(getattr(Settings(), name)).model_fields
    return tuple(f"{name}.{field}" for field in fields if field not in but)


def _dataset(settings: Settings, argument: str, default: object = None) -> object:
    """Return an argument of the dataset."""
    return settings.data.plugin_kwargs().get(argument, default)


NEEDS: Final[tuple[Need, ...]] = (
    (
        "data.protocol=leave-last-out",
        lambda one: one.data.protocol == "leave-last-out",
        ("data.folds", "data.validation_fraction"),
    ),
    ("data.max_users=200", lambda one: one.data.max_users is not None, ("data.user_sample",)),
    (
        "data.time_column=timestamp",
        lambda one: _dataset(one, "time_column", "timestamp") is not None,
        ("data.time_unit", "data.time_format"),
    ),
    (
        "data.time_format=null",
        lambda one: _dataset(one, "time_format") is None,
        ("data.time_unit",),
    ),
    ("item_type=null", lambda one: one.item_type is None, ("data.item_type",)),
    ("images.store=true", lambda one: one.images.store, ("images.max_side",)),
    (
        "images.download=true",
        lambda one: one.images.download,
        ("images.allowed_hosts", "images.concurrency"),
    ),
    (
        "executor.name=ray",
        lambda one: one.executor.name == "ray",
        _section("executor", but=("name",)),
    ),
    ("align.enabled=true", lambda one: one.align.enabled, _section("align", but=("enabled",))),
    (
        "summarize.enabled=true",
        lambda one: one.summarize.enabled,
        # `align` limits descriptions of images as summaries do.
        _section("summarize", but=("enabled", "image_words")),
    ),
    (
        "summarize.modalities=[text, image]",
        lambda one: "text" in one.summarize.modalities,
        ("summarize.text_words", "summarize.words"),
    ),
    (
        "summarize.modalities=[text, image]",
        lambda one: "image" in one.summarize.modalities or one.align.enabled,
        ("summarize.image_words",),
    ),
    (
        "summarize.modalities=[text, image]",
        lambda one: "image" in one.summarize.modalities,
        ("summarize.words",),
    ),
    (
        "infer.enabled=true",
        lambda one: one.infer.enabled,
        # Other stages read these two.
        _section("infer", but=("enabled", "block_size", "max_items")),
    ),
    (
        "recommend.reads=history",
        lambda one: one.recommend.reads_history,
        ("recommend.history_items",),
    ),
    (
        "recommend.item_text=text",
        lambda one: one.recommend.item_text != "none",
        ("recommend.item_words",),
    ),
    (
        "recommend.collaborative=sasrec",
        lambda one: one.recommend.reads_vectors,
        ("recommend.collaborative_min_interactions",),
    ),
    (
        "train.enabled=true",
        lambda one: one.train.enabled,
        # Without training, prompts have a length, and stages have metrics.
        _section("train", but=("enabled", "max_text_tokens", "loggers")),
    ),
    (
        "train.method=lora",
        lambda one: one.train.method == "lora",
        tuple(f"train.{name}" for name in ("rank", "alpha", "dropout", "init", "target")),
    ),
    (
        "train.method=frozen-lower-layers",
        lambda one: one.train.method == "frozen-lower-layers",
        ("train.upper_layers",),
    ),
    (
        "train.objective=listwise",
        lambda one: one.train.objective == "listwise",
        ("train.pointwise_share",),
    ),
    (
        "data.train_targets=blocks",
        lambda one: one.data.train_targets != "last",
        ("train.targets_per_user",),
    ),
    (
        "distill.enabled=true",
        lambda one: one.distill.enabled,
        _section("distill", but=("enabled",)),
    ),
    ("report.case_studies=4", lambda one: one.report.case_studies > 0, ("report.seed",)),
    (
        "retrieve.generators=[preference, collaborative, recent]",
        lambda one: "recent" in candidate_generators(one),
        ("retrieve.recent_share", "retrieve.recent_weight"),
    ),
    (
        "retrieve.generators=[preference, collaborative, recent]",
        lambda one: "collaborative" in candidate_generators(one),
        ("retrieve.collaborative",),
    ),
    (
        "infer.enabled=true",
        lambda one: one.infer.enabled,
        ("serve.update", "serve.update_retries", "serve.update_wait"),
    ),
    ("serve.experiment=NAME", lambda one: one.serve.experiment is not None, ("serve.variants",)),
)


def unused_settings(settings: Settings, given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence about each setting without an effect.

    Args:
        settings: All settings.
        given: Nested settings that a user gives, a part of them.
    """
    values = settings.model_dump(mode="json")
    named: set[str] = set()
    for change, is_met, keys in NEEDS:
        for key in () if is_met(settings) else keys:
            if (value := lookup(given, key)) is None or key in named:
                continue
            named.add(key)
            name = change.partition("=")[0]
            yield (
                f"{key}={displayed(key, value)} has no effect with "
                f"{name}={displayed(name, lookup(values, name))}. Set {change}, or leave {key} out."
            )
