"""Values that a shell completes: presets, models, settings and commands.

`mllm-msr --install-completion` installs the completion of commands and options, which Typer
provides. Typer calls these functions with the text typed so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# The keys of `ranker.recommender.VARIANTS`, whose module takes seconds to import.
_MLLM_MODELS: Final = ("mllm_msr", "zero_shot", "mllm_msr_direct", "mllm_msr_text_only")


def complete_preset(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the presets with this beginning, and what each is for."""
    from mllm_msr.config.loading import describe_preset, preset_names

    for name in preset_names():
        if name.startswith(incomplete):
            yield name, describe_preset(name)


def complete_models(incomplete: str) -> Iterator[str]:
    """Yield the lists of models that continue a list of names separated by commas."""
    from mllm_msr import registry

    earlier, comma, last = incomplete.rpartition(",")
    given = set(earlier.split(","))
    for name in (*_MLLM_MODELS, *registry.names("baselines")):
        if name.startswith(last) and name not in given:
            yield f"{earlier}{comma}{name}"


def complete_setting(incomplete: str) -> Iterator[str]:
    """Yield the settings with this beginning as `key=`, or a setting that is complete."""
    from mllm_msr.config.reference import reference

    for each in reference():
        if f"{each.key}=".startswith(incomplete):
            yield f"{each.key}="
