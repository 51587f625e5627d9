"""Tests of the conversion of prompts to JSON and of responses to records."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from endpoints import completion_response, logprobs_response
from mllm_msr.backends._http import chat_format
from mllm_msr.backends._http.chat_format import Scoring
from mllm_msr.backends._http.responses import MalformedResponseError, TransientError
from mllm_msr.data.images import open_image
from mllm_msr.errors import ImageError, PromptTooLongError
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

TOP = Scoring(("yes", "no"))


def prompt(*parts: TextPart | ImagePart, **more: Any) -> Prompt:
    return Prompt((Message("user", parts),), **more)


def pixels(url: str) -> np.ndarray[Any, Any]:
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def test_text_without_images_is_one_string() -> None:
    messages = chat_format.messages(prompt(TextPart("Say "), TextPart("yes.")))
    assert messages == [{"role": "user", "content": "Say yes."}]


def test_images_keep_their_position(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    (turn,) = chat_format.messages(prompt(TextPart("Before"), ImagePart(path), TextPart("after")))
    parts: Any = turn["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]


@pytest.mark.parametrize(
    "name", ["clear.png", "gray.png", "plain.jpg", "turned.jpg", "moving.gif", "long.jpg"]
)
def test_the_server_receives_the_pixels_of_a_local_model(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    path = tmp_path / name
    image = Image.fromarray(noise, "RGBA")
    if name == "long.jpg":
        image = image.resize((900, 20))
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").save(path, exif=exif)
    else:
        modes = {"clear.png": "RGBA", "gray.png": "L", "moving.gif": "P"}
        image.convert(modes.get(name, "RGB")).save(path)
    assert (pixels(chat_format.image_url(path)) == np.asarray(open_image(path))).all()


def test_a_broken_image_raises_an_image_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        chat_format.messages(prompt(ImagePart(path)))


@pytest.mark.parametrize(
    "token", ["<image>", "</s>", "<|im_end|>", "[INST]", "<<SYS>>", "<<image>>"]
)
def test_special_tokens_are_escaped(token: str) -> None:
    halves = (TextPart(f"Lost {token[:3]}"), TextPart(f"{token[3:]} found"))
    (turn,) = chat_format.messages(prompt(*halves))
    assert token not in str(turn["content"])
    assert str(turn["content"]).replace(" ", "") == f"Lost{token}found"


def test_plain_text_is_unchanged() -> None:
    text = 'I <3 U: "2 < 3 > 1", [sic], a<b, f[X], 100 %'
    assert chat_format.escape_markup(text) == text


def test_a_budget_truncates_only_trimmable_parts() -> None:
    parts = (TextPart("Keep this. "), TextPart("word " * 100, trimmable=1), TextPart(" And this."))
    cut = chat_format.fit_budget(prompt(*parts, max_text_tokens=20), characters_per_token=3.0)
    texts = [part.text for part in cut.messages[0].parts if isinstance(part, TextPart)]
    assert texts[0] == "Keep this. "
    assert texts[2] == " And this."
    assert 50 <= sum(map(len, texts)) <= 60
    whole = prompt(*parts, max_text_tokens=1000)
    assert chat_format.fit_budget(whole, characters_per_token=3.0) is whole


def test_a_character_of_several_bytes_counts_as_a_token() -> None:
    text = " ".join(["\U00020000" * 10] * 50)
    budgeted = Prompt((Message("user", (TextPart(text, trimmable=1),)),), max_text_tokens=100)
    fitted = chat_format.fit_budget(budgeted, characters_per_token=3.5)
    assert 50 < len(fitted.text) <= 100


def test_a_prompt_that_cannot_be_truncated_raises_an_error() -> None:
    with pytest.raises(PromptTooLongError, match="limit of 2 text tokens"):
        chat_format.fit_budget(
            prompt(TextPart("Keep this. "), max_text_tokens=2), characters_per_token=3.0
        )


def test_a_completion_has_text_and_token_counts() -> None:
    body: Any = completion_response("  A film. ", finish="length", n_prompt=11, n_output=4).body
    found = chat_format.parse_completion(body)
    assert (found.text, found.prompt_tokens, found.output_tokens) == ("A film.", 11, 4)
    assert found.finish_reason == "length"
    assert chat_format.parse_completion({"choices": [{"message": {"content": None}}]}).text == ""


def test_a_filtered_answer_is_a_failure() -> None:
    body: Any = completion_response("", finish="content_filter").body
    assert "content filter" in str(chat_format.parse_completion(body).error)


def test_a_refusal_is_a_failure_with_its_text() -> None:
    message = {"content": None, "refusal": "I can't help."}
    completion = chat_format.parse_completion(
        {"choices": [{"message": message, "finish_reason": "stop"}]}
    )
    assert completion.text == ""
    assert completion.finish_reason == "error"
    assert completion.error == "The model refuses to answer: I can't help."


def test_a_generation_that_failed_may_succeed_again() -> None:
    choice = {"message": {"content": "Half an"}, "finish_reason": "error"}
    with pytest.raises(TransientError, match="generation failed"):
        chat_format.parse_completion({"choices": [choice]})


@pytest.mark.parametrize(
    "response", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": 3}}]}]
)
def test_responses_in_another_format_are_malformed(response: dict[str, Any]) -> None:
    with pytest.raises(MalformedResponseError, match=r"The (content of the )?response"):
        chat_format.parse_completion(response)
    with pytest.raises(MalformedResponseError, match=r"The (content of the )?response"):
        chat_format.parse_scores(response, TOP)


def test_log_probabilities_by_token_id_are_exact() -> None:
    body: Any = logprobs_response({"token_id:9": -0.1, "token_id:4": -2.0, "token_id:7": -5.5}).body
    scores = chat_format.parse_scores(body, Scoring(("yes", "no"), token_ids=(4, 7)))
    assert scores.log_probs == (-2.0, -5.5)
    assert not scores.upper_bound
    with pytest.raises(MalformedResponseError, match=r"tokens \[8\]"):
        chat_format.parse_scores(body, Scoring(("yes", "no"), token_ids=(4, 8)))


def test_answers_are_looked_up_among_the_most_probable_tokens() -> None:
    body: Any = logprobs_response({" no": -0.2, "yes": -1.5, " yes": -0.9, "Yes": -3.0}).body
    scores = chat_format.parse_scores(body, TOP)
    assert scores.log_probs == (-1.5, -0.2)
    assert not scores.upper_bound


def test_a_missing_answer_gets_an_upper_bound() -> None:
    body: Any = logprobs_response({"yes": -0.1, "maybe": -2.5, "well": -6.0}).body
    scores = chat_format.parse_scores(body, TOP)
    assert scores.log_probs == (-0.1, -6.0)
    assert scores.upper_bound


def test_two_missing_answers_are_a_failure() -> None:
    body: Any = logprobs_response({"maybe": -0.1, "well": -6.0}).body
    scores = chat_format.parse_scores(body, TOP)
    assert scores.log_probs == ()
    assert "among the 2 most probable" in str(scores.error)


@pytest.mark.parametrize("value", [None, float("nan"), float("-inf")])
def test_a_token_without_a_finite_value_counts_as_absent(value: float | None) -> None:
    body: Any = logprobs_response({"yes": -0.2, "no": value, "well": -4.0}).body  # type: ignore[dict-item]
    scores = chat_format.parse_scores(body, TOP)
    assert (scores.log_probs, scores.upper_bound) == ((-0.2, -4.0), True)
    both: Any = logprobs_response({"yes": value, "no": value, "well": -4.0}).body  # type: ignore[dict-item]
    assert chat_format.parse_scores(both, TOP).error is not None
    entries: Any = logprobs_response({"token_id:4": value, "token_id:7": -1.0}).body  # type: ignore[dict-item]
    with pytest.raises(MalformedResponseError, match=r"lacks .* of the tokens \[4\]"):
        chat_format.parse_scores(entries, Scoring(("yes", "no"), token_ids=(4, 7)))


@pytest.mark.parametrize("value", ["-0.2", True, [], {}, 0.5, float("inf")])
def test_values_that_are_no_log_probabilities_are_malformed(value: Any) -> None:
    body: Any = logprobs_response({"yes": value, "no": -1.0}).body
    with pytest.raises(MalformedResponseError, match="A log-probability is"):
        chat_format.parse_scores(body, TOP)


def test_rounding_above_zero_is_removed() -> None:
    body: Any = logprobs_response({"yes": 1e-7, "no": -16.0}).body
    assert chat_format.parse_scores(body, TOP).log_probs == (0.0, -16.0)


def test_only_the_text_parts_of_a_list_are_the_answer() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "A lantern."}]},
        {"type": "text", "text": "A calm "},
        {"type": "text", "text": "film."},
    ]
    response = {"choices": [{"message": {"content": parts, "reasoning_content": "A lantern."}}]}
    assert chat_format.parse_completion(response).text == "A calm film."


def test_thoughts_in_a_separate_field_are_no_answer() -> None:
    message = {"content": None, "reasoning_content": "A lantern, so"}
    response = {"choices": [{"message": message, "finish_reason": "length"}]}
    assert chat_format.parse_completion(response).text == ""


@pytest.mark.parametrize("mark", ["<think>", "<|channel|>", "[THINK]"])
def test_an_answer_that_begins_with_a_thought_is_not_scored(mark: str) -> None:
    body: Any = logprobs_response({mark: -0.1, "yes": -9.0, "no": -12.0}).body
    assert chat_format.thought_mark(body) == mark
    scores = chat_format.parse_scores(body, TOP)
    assert scores.log_probs == ()
    assert f"begins its answer with a thought ({mark})" in str(scores.error)
    hidden: Any = logprobs_response({"Okay": -0.1, "yes": -9.0}).body
    hidden["choices"][0]["message"] = {"content": "", "reasoning_content": "Okay"}
    assert chat_format.thought_mark(hidden) == "reasoning_content"


def test_an_error_in_a_choice_has_the_status_of_its_code() -> None:
    error = {"message": "upstream is busy", "code": 429}
    response = {"choices": [{"finish_reason": "error", "error": error, "message": {}}]}
    with pytest.raises(TransientError, match="status 429: upstream is busy"):
        chat_format.parse_completion(response)
