"""Evaluation of the demo model on unseen worlds: the last step of the recipe.

The model answers the pipeline's prompts with greedy decoding. Its answers are compared with the
slot values of the world's items and with the preferences of the symbolic teacher. Run it from the
repository root; it prints JSON:

    python -m recipes.demo_model.measure --weights build/weights
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mllm_msr.demo_model import language, weights_folder
from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.language import PartialValues
from mllm_msr.demo_model.world import (
    IMAGE_SLOTS,
    MEASURE_SEEDS,
    SLOTS,
    TEXT_SLOTS,
    WorldItem,
    make_world,
)
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.prompts.templates import render
from mllm_msr.summarization.faithfulness import source_coverage
from mllm_msr.types import Prompt
from recipes.demo_model.quiz import quiz
from recipes.demo_model.teacher import ceilings, recurrent_preference

_ITEM_TYPE: Final = "video"
_BLOCK_SIZE: Final = 3


class Writer:
    """Model that answers prompts with greedy decoding.

    Args:
        folder: Checkpoint of the model.
        batch_size: Prompts per batch.
    """

    def __init__(self, folder: Path, *, batch_size: int = 50) -> None:
        loaded = load_model(str(folder), dtype="float32", device="cpu")
        self._model: Any = loaded.model
        self._renderer = Renderer(loaded.processor, supports_images=True)
        self._batch_size = batch_size

    def write(self, prompts: Sequence[Prompt]) -> list[str]:
        """Answer prompts and return the answers in the order of the prompts."""
        rendered = [self._renderer.render(prompt) for prompt in prompts]
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i].input_ids))
        answers = [""] * len(rendered)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            inputs = self._renderer.collate(
                [rendered[i] for i in rows], pad_side="left", with_answers=False
            )
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                output = self._model.generate(**inputs, max_new_tokens=60, do_sample=False)
            new = output[:, inputs["input_ids"].shape[1] :]
            texts = self._renderer.tokenizer.batch_decode(new, skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text.strip()
        return answers


def read_values(text: str) -> PartialValues:
    """Return the first value of each slot that occurs in a text, `None` if there is none."""
    words = re.findall(r"[a-z]+", text.lower())
    return tuple(next((word for word in words if word in slot.values), None) for slot in SLOTS)


def measure(
    folder: Path,
    *,
    seed: int = MEASURE_SEEDS.start,
    n_items: int = 200,
    n_users: int = 100,
    n_questions: int = 400,
    titles: Sequence[str] = (),
) -> Mapping[str, Any]:
    """Run the pipeline's prompts on an unseen world and compute accuracies.

    Args:
        folder: Checkpoint of the model.
        seed: Seed of the world, in `MEASURE_SEEDS`.
        n_items: Number of items.
        n_users: Number of users.
        n_questions: Questions per family.
        titles: Titles from real catalogs to summarize.

    Returns:
        Accuracies in [0, 1]: by slot for image descriptions, text summaries and combined
        summaries; of names in summaries; by slot for the preferences after the last block, compared
        with the teacher's; and of single questions (`quiz`). Also the source coverage of the
        summaries of `titles`, samples of the texts, and the ceilings of the world.
    """
    world = make_world(seed, n_items=n_items, n_users=n_users)
    writer = Writer(folder)
    values = [item.values for item in world.items]
    with tempfile.TemporaryDirectory() as folder_name:
        covers = [Path(folder_name) / f"{number}.png" for number in range(n_items)]
        for item, cover in zip(world.items, covers, strict=True):
            draw_cover(item).save(cover)
        descriptions, summaries, fused = _summaries(writer, world.items, covers)
        questions = quiz(writer.write, covers, values, seed=seed, n_examples=n_questions)
    prompts = [_title_prompt(title) for title in titles]
    title_summaries = writer.write(prompts)
    names = [item.name for item in world.items]
    preferences = _preferences(writer, fused, [user.history[:-1] for user in world.users])
    expected = [
        recurrent_preference([values[i] for i in user.history[:-1]], block_size=_BLOCK_SIZE)[-1]
        for user in world.users
    ]
    all_slots = range(len(SLOTS))
    return {
        "image_description": _slot_accuracy(descriptions, values, IMAGE_SLOTS),
        "text_summary": _slot_accuracy(summaries, values, TEXT_SLOTS),
        "fusion": _slot_accuracy(fused, values, all_slots),
        "names_in_text_summary": _share_with_name(summaries, names),
        "names_in_fusion": _share_with_name(fused, names),
        "preference": _slot_accuracy([texts[-1] for texts in preferences], expected, all_slots),
        "questions": questions,
        "external_titles": _mean_coverage(title_summaries, titles),
        "samples": {
            "text_summary": summaries[:3], "image_description": descriptions[:40],
            "fusion": fused[:3], "preferences": preferences[:20],
            "external_titles": title_summaries[:10],
        },
        "ceilings": ceilings(world),
    }  # fmt: skip


def _title_prompt(title: str, text: str = "") -> Prompt:
    data = {"title": title, "text": text, "words": 40}
    return render("text_summary", data, item_type=_ITEM_TYPE)


def _summaries(
    writer: Writer, items: Sequence[WorldItem], covers: Sequence[Path]
) -> tuple[list[str], list[str], list[str]]:
    """Return image descriptions, text summaries and combined summaries of items."""
    descriptions = writer.write(
        [
            render("image_description", {"words": 40}, item_type=_ITEM_TYPE, images=[cover])
            for cover in covers
        ]
    )
    summaries = writer.write(
        [_title_prompt(language.title(item), language.text(item)) for item in items]
    )
    pairs = [
        {"text_summary": summary, "image_summary": description, "words": 60}
        for summary, description in zip(summaries, descriptions, strict=True)
    ]
    fused = writer.write([render("fusion", data, item_type=_ITEM_TYPE) for data in pairs])
    return descriptions, summaries, fused


def _mean_coverage(summaries: Sequence[str], titles: Sequence[str]) -> dict[str, float]:
    """Return the mean source coverage of summaries with content words, and their number."""
    pairs = zip(summaries, titles, strict=True)
    shares = [source_coverage(summary, title) for summary, title in pairs]
    known = [share for share in shares if share is not None]
    if not known:
        return {"n": 0}
    return {"source_coverage": round(float(np.mean(known)), 3), "n": len(known)}


def _preferences(
    writer: Writer, summaries: Sequence[str], histories: Sequence[Sequence[int]]
) -> list[list[str]]:
    """Infer the preference of each user after each block of the history."""
    preferences: list[list[str]] = [[] for _ in histories]
    for start in range(0, max(len(history) for history in histories), _BLOCK_SIZE):
        active = [user for user, history in enumerate(histories) if len(history) > start]
        prompts = []
        for user in active:
            block = [summaries[i] for i in histories[user][start : start + _BLOCK_SIZE]]
            data: dict[str, object] = {"summaries": block, "words": 80}
            if start:
                data["preference"] = preferences[user][-1]
            name = "preference_update" if start else "preference_first"
            prompts.append(render(name, data, item_type=_ITEM_TYPE))
        for user, text in zip(active, writer.write(prompts), strict=True):
            preferences[user].append(text)
    return preferences


def _slot_accuracy(
    texts: Sequence[str], expected: Sequence[PartialValues], slots: Sequence[int]
) -> dict[str, float]:
    """Return for each slot the share of texts with the expected value."""
    found = [read_values(text) for text in texts]
    return {
        SLOTS[slot].name: round(
            float(np.mean([a[slot] == b[slot] for a, b in zip(found, expected, strict=True)])), 3
        )
        for slot in slots
    }


def _share_with_name(texts: Sequence[str], names: Sequence[str]) -> float:
    return round(float(np.mean([n in text for n, text in zip(names, texts, strict=True)])), 3)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the demo model, or another checkpoint, and print JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--weights", type=Path, help="checkpoint folder [demo model]")
    parser.add_argument("--seed", type=int, default=MEASURE_SEEDS.start, help="world seed")
    parser.add_argument("--items", type=int, default=200, help="number of items")
    parser.add_argument("--users", type=int, default=100, help="number of users")
    parser.add_argument("--questions", type=int, default=400, help="questions per family")
    parser.add_argument("--titles", type=Path, help="file with real titles, one per line")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    folder = args.weights or weights_folder()
    titles = args.titles.read_text(encoding="utf-8").splitlines() if args.titles else []
    result = measure(
        folder, seed=args.seed, n_items=args.items, n_users=args.users,
        n_questions=args.questions, titles=titles,
    )  # fmt: skip
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
