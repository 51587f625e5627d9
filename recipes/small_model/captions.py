"""Prompts and answers about a picture: its description, as later stages ask for it, and details."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mllm_msr.prompts import templates
from mllm_msr.ranker.alignment.examples import AlignmentExample
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from recipes.small_model.drawings import Picture

_ITEM_TYPES = ("video", "film", "product", "item")


def describe(picture: Picture) -> str:
    """Return the description of a picture."""
    joint = "in" if picture.kind == "landscape" else "on"
    light = "dark" if picture.is_dark else "bright"
    colors = " and ".join(picture.colors)
    subject = picture.subject[0].upper() + picture.subject[1:]
    return f"{subject} {joint} {picture.setting}. The picture is {light}, in {colors}."


def description_prompt(image: Path, item_type: str) -> Prompt:
    """Return the prompt with which the stage summarize asks for a description."""
    return templates.render("image_description", {"words": 40}, item_type=item_type, images=[image])


def make_example(image: Path, picture: Picture, rng: np.random.Generator) -> AlignmentExample:
    """Draw a prompt about a picture: its description in half of the cases, else a question."""
    kind = rng.choice(["description", "subject", "colors", "light"], p=[0.5, 0.3, 0.12, 0.08])
    if kind == "description":
        item_type = str(rng.choice(_ITEM_TYPES))
        return AlignmentExample(description_prompt(image, item_type), describe(picture))
    question, answer = {
        "subject": ("What does the picture show?", picture.subject.capitalize()),
        "colors": ("Which colors does the picture have?", " and ".join(picture.colors)),
        "light": ("Is the picture dark or bright?", "dark" if picture.is_dark else "bright"),
    }[str(kind)]
    parts = (ImagePart(image), TextPart(question))
    return AlignmentExample(Prompt((Message("user", parts),)), f"{answer.capitalize()}.")
