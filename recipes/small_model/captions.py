"""Prompts and answers about a scene: its description, as later stages ask for it, and details."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mllm_msr.prompts import templates
from mllm_msr.ranker.alignment.examples import AlignmentExample
from mllm_msr.types import ImagePart, Message, Prompt, TextPart
from recipes.small_model.drawings import Scene

_ITEM_TYPES = ("video", "film", "product", "item")


def describe(scene: Scene) -> str:
    """Return the description of a scene."""
    joint = "in" if scene.kind == "landscape" else "on"
    light = "dark" if scene.is_dark else "bright"
    colors = " and ".join(scene.colors)
    subject = scene.subject[0].upper() + scene.subject[1:]
    return f"{subject} {joint} {scene.setting}. The image is {light}, in {colors}."


def description_prompt(image: Path, item_type: str) -> Prompt:
    """Return the prompt with which the stage summarize asks for a description."""
    return templates.render("image_description", {"words": 40}, item_type=item_type, images=[image])


def make_example(image: Path, scene: Scene, rng: np.random.Generator) -> AlignmentExample:
    """Draw a prompt about a scene: its description in half of the cases, else a question."""
    kind = rng.choice(["description", "subject", "colors", "light"], p=[0.5, 0.3, 0.12, 0.08])
    if kind == "description":
        item_type = str(rng.choice(_ITEM_TYPES))
        return AlignmentExample(description_prompt(image, item_type), describe(scene))
    question, answer = {
        "subject": ("What does the image show?", scene.subject.capitalize()),
        "colors": ("Which colors does the image have?", " and ".join(scene.colors)),
        "light": ("Is the image dark or bright?", "dark" if scene.is_dark else "bright"),
    }[str(kind)]
    parts = (ImagePart(image), TextPart(question))
    return AlignmentExample(Prompt((Message("user", parts),)), f"{answer.capitalize()}.")
