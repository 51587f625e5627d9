"""Checks of settings beyond their types: plugins and their arguments, words and templates."""

from __future__ import annotations

from mllm_msr.config.arguments import argument_problems
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
    """Return the problems with stages that are skipped although a later stage needs them."""
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
    return problems


def check_plugins(settings: Settings) -> list[str]:
    """Return the problems with plugin names and with the arguments of plugin constructors."""
    problems = argument_problems(
        "datasets", settings.dataset, settings.data.plugin_kwargs(), "data"
    )
    for section, model in [
        ("model", settings.model),
        ("summarize.model", settings.summarize.model),
        ("infer.model", settings.infer.model),
        ("score.model", settings.score.model),
    ]:
        if model is not None:
            problems += argument_problems("backends", model.backend, model.plugin_kwargs(), section)
    for name in settings.score.baselines:
        problems += argument_problems("baselines", name, {}, "score.baselines")
    for name, arguments in settings.baselines.plugin_kwargs().items():
        if isinstance(arguments, dict):
            problems += argument_problems("baselines", name, arguments, f"baselines.{name}")
        else:
            problems.append(
                f"baselines.{name}={arguments!r}: must be a mapping of arguments, as in "
                f"baselines.{name}.seed=1."
            )
    return problems
