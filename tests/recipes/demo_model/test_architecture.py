"""Architecture: tokenizer, export to standard classes, and initial embeddings."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from mllm_msr.demo_model.covers import draw_cover
from mllm_msr.demo_model.language import NUMBERS
from mllm_msr.demo_model.world import SLOTS, random_item
from recipes.demo_model.architecture import IMAGE, SPECIAL_TOKENS, dialogue_text
from recipes.demo_model.batches import encode
from recipes.demo_model.corpus import FAMILIES, Source


@pytest.fixture
def exported(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    run.export(tmp_path / "weights")
    return run, tmp_path / "weights"


def test_slot_values_and_answers_are_single_tokens(tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    words = [value for slot in SLOTS for value in slot.values]
    for word in (*words, "yes", "no", "first", "second", *NUMBERS):
        for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}"):
            assert len(tokenizer.encode(form)) == 1, form


def test_tokenizer_round_trips_any_script(tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    line = "Żółć 東京 🎈 ﷺ"
    assert tokenizer.decode(tokenizer.encode(line)) == line


def test_an_exported_model_loads_with_the_standard_classes(exported):
    _, folder = exported
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    cover = draw_cover(random_item(np.random.default_rng(0)))
    dialogue = [
        {"role": "user", "content": [{"type": "image", "image": cover},
                                     {"type": "text", "text": "Which object is shown?"}]}
    ]  # fmt: skip
    inputs = processor.apply_chat_template(
        dialogue, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    output = model.float().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
    image_id = SPECIAL_TOKENS.index(IMAGE)
    assert (inputs["input_ids"] == image_id).sum() == (32 // 16) ** 2


def test_training_and_processor_use_the_same_tokens(exported):
    run, folder = exported
    processor = AutoProcessor.from_pretrained(folder)
    cover = draw_cover(random_item(np.random.default_rng(0)))
    for name in ("fusion", "comparison"):
        example = FAMILIES[name](Source(np.random.default_rng(2), run.covers))
        content = [
            {"type": "text", "text": part.text} if hasattr(part, "text")
            else {"type": "image", "image": cover}
            for part in example.prompt.messages[0].parts
        ]  # fmt: skip
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        )  # fmt: skip
        ids, loss_mask = encode(example, run.tokenizer, image_tokens=4)
        first_answer = loss_mask.index(True)
        assert inputs["input_ids"][0].tolist() == ids[:first_answer]


def test_the_exported_model_predicts_like_the_trained_module(exported):
    run, folder = exported
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    run.learner.load_state_dict(
        {**run.learner.state_dict(), **{f"model.{k}": v for k, v in model.state_dict().items()}}
    )
    batch = next(b for b in run.probes if b.family == "image_description")
    loss, predicted, _ = run.learner(batch)
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids, pixel_values=batch.pixels,
            attention_mask=(batch.input_ids != 0).long(),
        ).logits  # fmt: skip
    same = logits[:, :-1][batch.loss_mask[:, 1:]].argmax(-1)
    assert torch.isfinite(loss)
    assert (same == predicted).float().mean() > 0.99


def test_forms_of_a_word_have_similar_initial_embeddings(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    table = run.learner.model.get_input_embeddings().weight

    def row(form):
        return table[run.tokenizer.encode(form)[0]]

    same_word = torch.cosine_similarity(row(" calm"), row("Calm"), dim=0)
    other_word = torch.cosine_similarity(row(" calm"), row("Epic"), dim=0)
    assert same_word > other_word + 0.3


def test_dialogues_are_split_into_targets_and_context():
    pieces = dialogue_text("Hello?", ["yes", "Sure?", "no"])
    assert [text for text, is_target in pieces if is_target] == ["yes<|end|>", "no<|end|>"]
    assert pieces[0][0] == "<|user|>Hello?<|end|><|assistant|>"
