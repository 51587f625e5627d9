"""Worked examples: what `prompts.style=few_shot` puts before a prompt."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mllm_msr.prompts import templates
from mllm_msr.prompts.few_shot import worked_examples
from mllm_msr.prompts.item_types import find_item_type
from mllm_msr.summarization.output_checks import find_fault
from mllm_msr.summarization.preferences import OPENING
from mllm_msr.types import ImagePart, Prompt, TextPart

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
WORDS = replace(find_item_type("dish"), style="few_shot")
DATA = {
    "text_summary": {"title": "The Lantern", "text": "A quiet film.", "words": 40},
    "fusion": {"text_summary": "A quiet tale.", "image_summary": "A red lantern.", "words": 60},
    "preference_first": {"summaries": ["A quiet tale.", "A loud one."], "words": 80},
    "preference_update": {"summaries": ["A tale."], "preference": "Old taste.", "words": 80},
}


def as_text(prompt: Prompt) -> str:
    turns = []
    for message in prompt.messages:
        shown = (part.text if isinstance(part, TextPart) else "[image]" for part in message.parts)
        turns.append(f"[{message.role}]\n{''.join(shown)}\n")
    return "".join(turns)


@pytest.mark.parametrize("name", DATA)
def test_golden_prompts(name: str) -> None:
    text = as_text(templates.render(name, DATA[name], item_type=WORDS))
    golden = GOLDEN / f"{name}.few_shot.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), (
        "run with UPDATE_GOLDEN=1 and review the change"
    )


@pytest.mark.parametrize("name", DATA)
def test_examples_come_before_the_plain_prompt(name: str) -> None:
    plain = templates.render(name, DATA[name], item_type="dish", max_new_tokens=7)
    shown = templates.render(name, DATA[name], item_type=WORDS, max_new_tokens=7)
    assert shown.messages[-1:] == plain.messages
    roles = [message.role for message in shown.messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    assert shown.max_new_tokens == plain.max_new_tokens
    assert templates.template_hash(name, item_type=WORDS) != templates.template_hash(name)


@pytest.mark.parametrize("name", DATA)
def test_answers_of_examples_are_what_the_stages_ask_for(name: str) -> None:
    for example in worked_examples(name):
        assert len(example.answer.split()) <= 40
        assert example.answer.startswith(OPENING) == name.startswith("preference")
        question = templates.render(name, {**example.data, "words": 40})
        assert find_fault(example.answer, question) is None
        # No answer contains a name that its question does not.
        names = re.findall(r"(?<![.] )\b[A-Z]\w+", example.answer.removeprefix("The "))
        assert [n for n in names if n not in as_text(question)] == []


def test_a_copied_example_is_an_unusable_answer() -> None:
    prompt = templates.render("text_summary", DATA["text_summary"], item_type=WORDS)
    copied = worked_examples("text_summary")[0].answer
    assert find_fault(copied, prompt) == "prompt_echo"


def test_other_prompts_have_no_examples() -> None:
    data = {"preference": "Quiet tales.", "title": "The Lantern"}
    images = [Path("cover.jpg")]
    for name, values in (("recommend", data), ("image_description", {"words": 40})):
        plain, shown = (
            templates.render(name, values, item_type=words, images=images)
            for words in ("dish", WORDS)
        )
        assert shown == plain
        assert isinstance(shown.messages[0].parts[0], ImagePart)
        assert templates.template_hash(name, item_type=WORDS) == templates.template_hash(name)


def test_own_templates_ask_the_questions_of_the_examples(tmp_path: Path) -> None:
    (tmp_path / "fusion.jinja").write_text("{{ words }}|{{ text_summary }}|{{ image_summary }}")
    own = replace(WORDS, templates=templates.read_templates(tmp_path))
    text = as_text(templates.render("fusion", DATA["fusion"], item_type=own))
    assert text.startswith("[user]\n60|Letters to Orsolv (2003) is")
    assert text.endswith("[user]\n60|A quiet tale.|A red lantern.\n")
