"""Checks of settings beyond their types: plugins and their arguments, words and templates."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_msr import registry
from mllm_msr.config.arguments import argument_problems
from mllm_msr.config.generators import GENERATORS, candidate_generators
from mllm_msr.config.settings import Settings
from mllm_msr.errors import SettingsError, UsageError
from mllm_msr.prompts.item_types import ENGLISH, find_item_type
from mllm_msr.prompts.templates import read_templates


def check_prompts(settings: Settings) -> list[str]:
    """Return the problems with the words, the templates and the style of the prompts."""
    problems: list[str] = []
    try:
        find_item_type(settings.item_type or "item")
    except UsageError as error:
        problems.append(str(error))
    try:
        if settings.prompts.folder is not None:
            read_templates(settings.prompts.folder)
    except SettingsError as error:
        problems += error.problems
    if settings.prompts.style == "few_shot" and settings.prompts.language != ENGLISH:
        problems.append(
            f"prompts.style=few_shot with prompts.language={settings.prompts.language}: the worked "
            "examples are in English. Set prompts.style=plain."
        )
    return problems


def check_stages(settings: Settings) -> list[str]:
    """Return the problems with outputs that a stage leaves out and a later one needs."""
    problems: list[str] = []
    if not settings.infer.enabled and settings.recommend.reads_preference:
        problems.append(
            f"infer.enabled=False: recommend.reads={settings.recommend.reads!r} needs preferences. "
            "Set recommend.reads=history, or infer.enabled=true."
        )
    readers = {
        "infer.enabled=False": settings.infer.enabled,
        "another recommend.item_text": settings.recommend.item_text == "summary",
        "another baselines.content": settings.baselines.content == "image_summary",
    }
    needed = [change for change, reads in readers.items() if reads]
    if not settings.summarize.enabled and needed:
        problems.append(
            f"summarize.enabled=False: other settings need summaries. Set {' and '.join(needed)}, "
            "or summarize.enabled=true."
        )
    unwritten = {"text", "image"}.difference(settings.summarize.modalities)
    if "text" in unwritten and settings.infer.enabled and not settings.infer.use_images:
        problems.append(
            "infer.use_images=False reads text summaries only, but summarize.modalities=[image] "
            "writes none. Add text, or set infer.use_images=true."
        )
    if "image" in unwritten and settings.baselines.content == "image_summary":
        problems.append(
            "baselines.content='image_summary' reads descriptions of images, but "
            "summarize.modalities=[text] writes none. Add image, or set another baselines.content."
        )
    return problems + check_vectors(settings)


def image_readers(settings: Settings) -> list[str]:
    """Return the settings with which a model needs images of items; empty if none does.

    Other baselines that read content use images as well if there are some, but do without them.
    """
    readers = {
        "summarize.modalities=[text, image]": settings.summarize.enabled
        and "image" in settings.summarize.modalities,
        "recommend.use_images=true": settings.recommend.use_images,
        "align.enabled=true": settings.align.enabled,
        "baselines.content=image": settings.baselines.content == "image",
    }
    return [setting for setting, reads in readers.items() if reads]


def check_vectors(settings: Settings) -> list[str]:
    """Return the problems with `recommend.collaborative`."""
    name = settings.recommend.collaborative
    if name == "none":
        return []
    problems = [baseline_problem(name)]
    if not settings.train.enabled and settings.model.plugin_kwargs().get("adapter") is None:
        problems.append(
            f"recommend.collaborative={name!r} needs a trained ranker. Set train.enabled=true or "
            "model.adapter, or recommend.collaborative=none."
        )
    models = filter(None, (settings.model, settings.score.model))
    problems += [backend_problem(name, model.backend) for model in models]
    return list(filter(None, problems))


def baseline_problem(name: str) -> str:
    """Return why a baseline cannot be `recommend.collaborative`; empty if it can."""
    if name in registry.names("baselines") and registry.find_baseline(name).has_vectors:
        return ""
    return (
        f"recommend.collaborative={name!r} must be none, or a baseline with vectors of users and "
        "items, such as sasrec or gru4rec."
    )


def backend_problem(name: str, backend: str) -> str:
    """Return why a backend cannot read the vectors of a baseline; empty if it can.

    Args:
        name: Name of the baseline.
        backend: Name of the backend; unknown names are reported elsewhere.
    """
    if backend not in registry.names("backends"):
        return ""
    if registry.find_backend(backend).reads_vectors:
        return ""
    return (
        f"recommend.collaborative={name!r}: the backend {backend!r} cannot read vectors of users "
        "and items. Use a model in this process (demo, smollm, huggingface), or set "
        "recommend.collaborative=none."
    )


def check_generators(settings: Settings) -> list[str]:
    """Return the problems with the candidate generators that are baselines."""
    found = candidate_generators(settings)
    collaborative = found.pop("collaborative", None)
    if collaborative is not None and collaborative in found.values():
        problem = (
            f"retrieve.generators contains {collaborative!r} twice, because the generator "
            "collaborative is this baseline. Remove one of them, or set retrieve.collaborative to "
            "another baseline."
        )
        return [problem]
    # The defaults are fast. To look at them would need the extra of the baselines.
    retrieve = settings.retrieve
    named = [name for name in retrieve.generators or () if name not in GENERATORS]
    names = [*named, *filter(None, [retrieve.collaborative])]
    known = registry.names("baselines")
    problems = []
    for name in names:
        if name not in known:
            options = [*GENERATORS, *known]
            problems.append(str(registry.unknown_name_error("generator", name, options)))
        elif not _is_fast(name):
            problems.append(
                f"The baseline {name!r} calls a language model for each item, so it cannot "
                "generate candidates. Remove it from section retrieve."
            )
        elif slow := [one for one in _members(settings, name) if not _is_fast(one)]:
            problems.append(
                f"baselines.{name}.members contains {slow[0]!r}, which is no baseline that scores "
                f"without a language model, so {name} cannot generate candidates. Remove {slow[0]} "
                f"from the members, or {name} from section retrieve."
            )
    return problems


def _is_fast(name: object) -> bool:
    """Return whether a recommender is a baseline that does not call a language model."""
    if name not in registry.names("baselines"):
        return False
    return not registry.find_baseline(str(name)).requires_llm


def _members(settings: Settings, name: str) -> Sequence[object]:
    """Return the members that the settings name for an ensemble; none if they are invalid."""
    arguments = settings.baselines.plugin_kwargs().get(name)
    members = arguments.get("members") if isinstance(arguments, dict) else ()
    return members if isinstance(members, list | tuple) else ()


def check_plugins(settings: Settings) -> list[str]:
    """Return the problems with plugin names and with the arguments of plugin constructors."""
    problems = argument_problems(
        "datasets", settings.dataset, settings.data.plugin_kwargs(), "data"
    )
    for section, model in settings.models().items():
        problems += argument_problems("backends", model.backend, model.plugin_kwargs(), section)
    for name in settings.score.baselines:
        problems += argument_problems("baselines", name, {}, "score.baselines")
    problems += check_generators(settings)
    for name, arguments in settings.baselines.plugin_kwargs().items():
        if isinstance(arguments, dict):
            problems += argument_problems("baselines", name, arguments, f"baselines.{name}")
        else:
            problems.append(
                f"baselines.{name}={arguments!r}: must be a mapping of arguments, as in "
                f"baselines.{name}.seed=1."
            )
    return problems
