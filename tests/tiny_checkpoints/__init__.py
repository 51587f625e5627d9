"""Tiny random checkpoints of model families, built offline.

Each function in the modules of this package writes a complete checkpoint (weights, tokenizer,
processor, chat template) of a few hundred kilobytes that loads like a real checkpoint of its
family. The byte-level tokenizer is trained on a few lines of text. A new family is one function
with a decorator `vision_family` or `text_family`. To inspect the checkpoints, run
`python -m tiny_checkpoints FOLDER [NAME ...]` in `tests/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tiny_checkpoints import gemma, glm, idefics, llava, mistral, newer, qwen, text, tiled
from tiny_checkpoints._parts import BUILDERS, IS_VISION

del (
    gemma,
    glm,
    idefics,
    llava,
    mistral,
    newer,
    qwen,
    text,
    tiled,
)  # imported to register their families

# One family of each kind of architecture, for tests of behavior that does not depend on a family.
FAMILIES: Final = ("llava_next", "qwen2_5_vl", "smolvlm", "gemma3", "llama")
VISION_FAMILIES: Final = FAMILIES[:-1]

ALL_FAMILIES: Final = tuple(sorted(BUILDERS))


def build(family: str, folder: Path) -> Path:
    """Write the checkpoint of one of `ALL_FAMILIES` into a new folder and return the folder."""
    BUILDERS[family](folder)
    return folder


def has_vision(family: str) -> bool:
    """Return whether prompts of a family may contain images."""
    return IS_VISION[family]
