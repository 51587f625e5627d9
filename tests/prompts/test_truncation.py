from mllm_msr.prompts.truncation import count_words, cut
from mllm_msr.types import Message, Prompt, TextPart


def texts(prompt: Prompt) -> list[str]:
    return [part.text for part in prompt.messages[0].parts if isinstance(part, TextPart)]


def asked(*parts: TextPart) -> Prompt:
    return Prompt((Message("user", parts),))


def test_the_first_in_turn_gives_before_the_second_wherever_they_stand() -> None:
    title, taste = TextPart("one two", trimmable=2), TextPart("a b c", trimmable=1)
    prompt = asked(taste, TextPart("fixed words"), title)
    assert count_words(prompt) == 5
    assert texts(cut(prompt, 4)) == ["a b", "fixed words", "one two"]
    assert texts(cut(prompt, 2)) == ["", "fixed words", "one two"]
    assert texts(cut(prompt, 1)) == ["", "fixed words", "one"]


def test_text_without_spaces_is_cut_as_well() -> None:
    prompt = asked(TextPart("電" * 100, trimmable=1))
    assert texts(cut(prompt, 1)) == ["電" * 32]
