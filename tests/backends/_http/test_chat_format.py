"""Prompts as JSON and replies as records, without any network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from endpoints import listed, said
from mllm_msr.backends._http import chat_format
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.client import MalformedError
from mllm_msr.data.images import open_image
from mllm_msr.errors import ImageError, PromptTooLongError
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

TOP = Scoring(("yes", "no"))


def prompt(*parts: TextPart | ImagePart, **more: Any) -> Prompt:
    return Prompt((Message("user", parts),), **more)


def pixels(url: str) -> np.ndarray[Any, Any]:
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def test_text_alone_is_one_string() -> None:
    asked = chat_format.messages(prompt(TextPart("Say "), TextPart("yes.")))
    assert asked == [{"role": "user", "content": "Say yes."}]


def test_images_stand_where_the_prompt_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    (turn,) = chat_format.messages(prompt(TextPart("Before"), ImagePart(path), TextPart("after")))
    kinds: Any = turn["content"]
    assert [part["type"] for part in kinds] == ["text", "image_url", "text"]


@pytest.mark.parametrize("name", ["clear.png", "grey.png", "plain.jpg", "turned.jpg", "moving.gif"])
def test_the_server_gets_the_pixels_that_a_local_model_gets(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    path = tmp_path / name
    image = Image.fromarray(noise, "RGBA")
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").save(path, exif=exif)
    else:
        modes = {"clear.png": "RGBA", "grey.png": "L", "plain.jpg": "RGB", "moving.gif": "P"}
        image.convert(modes[name]).save(path)
    assert (pixels(chat_format.image_url(path)) == np.asarray(open_image(path))).all()


def test_a_broken_image_is_an_error_of_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        chat_format.messages(prompt(ImagePart(path)))


@pytest.mark.parametrize(
    "mark", ["<image>", "</s>", "<|im_end|>", "[INST]", "<<SYS>>", "<<image>>"]
)
def test_marks_of_a_models_markup_do_not_act(mark: str) -> None:
    halves = (TextPart(f"Lost {mark[:3]}"), TextPart(f"{mark[3:]} found"))
    (turn,) = chat_format.messages(prompt(*halves))
    assert mark not in str(turn["content"])
    assert str(turn["content"]).replace(" ", "") == f"Lost{mark}found"


def test_ordinary_text_stays_as_it_is() -> None:
    text = 'I <3 U: "2 < 3 > 1", [sic], a<b, f[X], 100 %'
    assert chat_format.escape_markup(text) == text


def test_a_budget_cuts_the_trimmable_words_alone() -> None:
    parts = (TextPart("Keep this. "), TextPart("word " * 100, trimmable=1), TextPart(" And this."))
    cut = chat_format.shortened(prompt(*parts, max_text_tokens=20), characters_per_token=3.0)
    texts = [part.text for part in cut.messages[0].parts if isinstance(part, TextPart)]
    assert texts[0] == "Keep this. "
    assert texts[2] == " And this."
    assert 50 <= sum(map(len, texts)) <= 60
    whole = prompt(*parts, max_text_tokens=1000)
    assert chat_format.shortened(whole, characters_per_token=3.0) is whole


def test_what_cannot_be_cut_enough_is_refused() -> None:
    with pytest.raises(PromptTooLongError, match="at most 2 text tokens"):
        chat_format.shortened(
            prompt(TextPart("Keep this. "), max_text_tokens=2), characters_per_token=3.0
        )


def test_an_answer_is_read_with_its_costs() -> None:
    body: Any = said("  A film. ", finish="length", read=11, written=4).body
    found = chat_format.read_completion(body)
    assert (found.text, found.prompt_tokens, found.output_tokens) == ("A film.", 11, 4)
    assert found.finish_reason == "length"
    assert chat_format.read_completion({"choices": [{"message": {"content": None}}]}).text == ""


def test_a_withheld_answer_is_a_failure() -> None:
    body: Any = said("", finish="content_filter").body
    assert "filter withheld" in str(chat_format.read_completion(body).error)


@pytest.mark.parametrize(
    "reply", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": 3}}]}]
)
def test_replies_of_another_form_are_malformed(reply: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="a reply"):
        chat_format.read_completion(reply)
    with pytest.raises(MalformedError, match="a reply"):
        chat_format.read_scores(reply, TOP)


def test_listed_ids_are_exact() -> None:
    body: Any = listed({"token_id:9": -0.1, "token_id:4": -2.0, "token_id:7": -5.5}).body
    scores = chat_format.read_scores(body, Scoring(("yes", "no"), token_ids=(4, 7)))
    assert scores.log_probs == (-2.0, -5.5)
    assert not scores.upper_bound
    with pytest.raises(MalformedError, match=r"tokens \[8\]"):
        chat_format.read_scores(body, Scoring(("yes", "no"), token_ids=(4, 8)))


def test_the_most_probable_tokens_are_searched_for_the_answers() -> None:
    body: Any = listed({" no": -0.2, "yes": -1.5, " yes": -0.9, "Yes": -3.0}).body
    scores = chat_format.read_scores(body, TOP)
    assert scores.log_probs == (-1.5, -0.2)
    assert not scores.upper_bound


def test_a_missing_answer_gets_a_bound_and_says_so() -> None:
    body: Any = listed({"yes": -0.1, "maybe": -2.5, "well": -6.0}).body
    scores = chat_format.read_scores(body, TOP)
    assert scores.log_probs == (-0.1, -6.0)
    assert scores.upper_bound


def test_two_missing_answers_are_a_failure() -> None:
    body: Any = listed({"maybe": -0.1, "well": -6.0}).body
    scores = chat_format.read_scores(body, TOP)
    assert scores.log_probs == ()
    assert "among the 2 most probable" in str(scores.error)
