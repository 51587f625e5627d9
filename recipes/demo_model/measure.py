"""What the packaged model can do, on worlds it never saw: `python -m recipes.demo_model.measure`.

The last step of the model's own flow. The model answers the pipeline's prompts greedily; its
words are compared with what the world's items show and with what the symbolic teacher says. The
result goes to standard output as JSON, next to the ceilings of the same world.
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

_NOUN: Final = "video"
_BLOCK: Final = 3


class Writer:
    """The model as a writer of greedy answers.

    Args:
        folder: Hugging Face files of the model.
        batch_size: Prompts in a batch.
    """

    def __init__(self, folder: Path, *, batch_size: int = 50) -> None:
        loaded = load_model(str(folder), dtype="float32", device="cpu")
        self._model: Any = loaded.model
        self._renderer = Renderer(loaded.processor, supports_images=True)
        self._batch_size = batch_size

    def write(self, prompts: Sequence[Prompt]) -> list[str]:
        """Answers, in the order of the prompts."""
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
    """The first value of each slot that a text names, None where it names none."""
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
    """Run the pipeline's prompts over an unseen world and count what is right.

    Args:
        folder: Hugging Face files of the model.
        seed: Seed of the world, out of `MEASURE_SEEDS`.
        n_items: Size of its catalogue.
        n_users: Number of its users.
        n_questions: Questions of each family.
        titles: Titles of the world outside, to be summarised.

    Returns:
        Shares in [0, 1]: per slot for image descriptions, text summaries and fused summaries; of
        names carried over; of preferences that agree with the teacher's, after the last block of
        the whole recurrent chain; answers to single questions (`quiz`); of outside titles, the
        share of a summary's content words that occur in its title; some texts as samples; the
        world's ceilings.
    """
    world = make_world(seed, n_items=n_items, n_users=n_users)
    writer = Writer(folder)
    with tempfile.TemporaryDirectory() as place:
        covers = _draw(world.items, Path(place))
        pictures, texts, fused = _summaries(writer, world.items, covers)
        truth = [item.values for item in world.items]
        answers = quiz(writer.write, covers, truth, seed=seed, n_examples=n_questions)
    outside = _outside(writer, titles)
    names = [item.name for item in world.items]
    preference_history = _preferences(writer, fused, [user.history[:-1] for user in world.users])
    wanted = [
        recurrent_preference([truth[i] for i in user.history[:-1]], block_size=_BLOCK)[-1]
        for user in world.users
    ]
    return {
        "image_description": _agreement(pictures, truth, IMAGE_SLOTS),
        "text_summary": _agreement(texts, truth, TEXT_SLOTS),
        "fusion": _agreement(fused, truth, range(len(SLOTS))),
        "names_in_text_summary": _carried(texts, names),
        "names_in_fusion": _carried(fused, names),
        "preference": _agreement([texts[-1] for texts in preference_history], wanted, range(len(SLOTS))),
        "questions": answers,
        "outside_titles": _carried_shares(outside, titles),
        "samples": {
            "text_summary": texts[:3], "image_description": pictures[:40], "fusion": fused[:3],
            "preferences": preference_history[:20], "outside_titles": outside[:10],
        },
        "ceilings": ceilings(world),
    }  # fmt: skip


def _draw(items: Sequence[WorldItem], place: Path) -> list[Path]:
    covers = [place / f"{number}.png" for number in range(len(items))]
    for item, cover in zip(items, covers, strict=True):
        draw_cover(item).save(cover)
    return covers


def _summaries(
    writer: Writer, items: Sequence[WorldItem], covers: Sequence[Path]
) -> tuple[list[str], list[str], list[str]]:
    pictures = writer.write(
        [
            render("image_description", {"words": 40}, item_type=_NOUN, image=cover)
            for cover in covers
        ]
    )
    titles = [
        {"title": language.title(item), "text": language.text(item), "words": 40} for item in items
    ]
    texts = writer.write([render("text_summary", data, item_type=_NOUN) for data in titles])
    pairs = [
        {"text_summary": text, "image_summary": picture, "words": 60}
        for text, picture in zip(texts, pictures, strict=True)
    ]
    return (
        pictures,
        texts,
        writer.write([render("fusion", data, item_type=_NOUN) for data in pairs]),
    )


def _outside(writer: Writer, titles: Sequence[str]) -> list[str]:
    asked = [{"title": title, "text": "", "words": 40} for title in titles]
    return writer.write([render("text_summary", data, item_type=_NOUN) for data in asked])


def _carried_shares(texts: Sequence[str], titles: Sequence[str]) -> dict[str, float]:
    shares = [source_coverage(text, title) for text, title in zip(texts, titles, strict=True)]
    known = [share for share in shares if share is not None]
    return {"carried": round(float(np.mean(known)), 3), "n": len(known)} if known else {"n": 0}


def _preferences(
    writer: Writer, summaries: Sequence[str], histories: Sequence[Sequence[int]]
) -> list[list[str]]:
    preference_histories: list[list[str]] = [[] for _ in histories]
    for start in range(0, max(len(history) for history in histories), _BLOCK):
        active = [user for user, history in enumerate(histories) if len(history) > start]
        asked = []
        for user in active:
            block = [summaries[i] for i in histories[user][start : start + _BLOCK]]
            data: dict[str, object] = {"summaries": block, "words": 80}
            if start:
                data["preference"] = preference_histories[user][-1]
            name = "preference_update" if start else "preference_first"
            asked.append(render(name, data, item_type=_NOUN))
        for user, text in zip(active, writer.write(asked), strict=True):
            preference_histories[user].append(text)
    return preference_histories


def _agreement(
    texts: Sequence[str], truth: Sequence[PartialValues], slots: Sequence[int]
) -> dict[str, float]:
    said = [read_values(text) for text in texts]
    return {
        SLOTS[slot].name: round(
            float(np.mean([a[slot] == b[slot] for a, b in zip(said, truth, strict=True)])), 3
        )
        for slot in slots
    }


def _carried(texts: Sequence[str], names: Sequence[str]) -> float:
    return round(float(np.mean([n in text for n, text in zip(names, texts, strict=True)])), 3)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the packaged model, or the one in a folder, and print JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--weights", type=Path, help="folder of the model [the packaged one]")
    parser.add_argument("--seed", type=int, default=MEASURE_SEEDS.start)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--questions", type=int, default=400, help="of each family")
    parser.add_argument("--titles", type=Path, help="text file of outside titles, one per line")
    parser.add_argument("--threads", type=int, default=1)
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
