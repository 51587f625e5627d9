"""Tests of options of processors and chat templates, and of the bound on image tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mllm_msr.backends.huggingface import HuggingFaceBackend
from mllm_msr.errors import BackendError
from mllm_msr.models.chat_template import ChatTemplate
from mllm_msr.models.image_inputs import ImageCache
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model, load_processor
from mllm_msr.models.processor_options import ProcessorOptions, recorded_options
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

Checkpoint = Callable[[str], Path]
QUESTION = "Would the user watch it? Answer yes or no."
SIZES = ((60, 40), (400, 300), (300, 400), (1000, 250))
# Tokens of the four images without a bound, a bound, and the tokens with it.
BOUNDS = {
    "qwen3_vl": ([8, 12, 12, 16], 7, [6, 6, 6, 5]),
    "glm4v": ([8, 12, 12, 16], 7, [6, 6, 6, 5]),
    "smolvlm": ([34, 34, 34, 21], 20, [7, 7, 7, 7]),
    "internvl": ([22, 22, 22, 22], 20, [14, 6, 14, 18]),
    "llava_next": ([70, 70, 72, 34], 40, [26, 36, 36, 26]),
    "llava_onevision": ([70, 70, 72, 34], 40, [26, 36, 36, 26]),
}


def ask(path: Path | None = None) -> Prompt:
    parts = (TextPart(QUESTION),)
    return Prompt((Message("user", (ImagePart(path), *parts) if path else parts),))


def n_tokens(processor: Any, size: tuple[int, int]) -> int:
    output = processor(
        text=[processor.image_token],
        images=[Image.new("RGB", size)],
        add_special_tokens=False,
        return_tensors="pt",
    )
    return int(output["input_ids"].shape[1])


@pytest.mark.parametrize("family", BOUNDS)
def test_image_tokens_bounds_the_tokens_of_every_image(
    tiny_checkpoint: Checkpoint, family: str
) -> None:
    folder = str(tiny_checkpoint(family))
    before, bound, after = BOUNDS[family]
    plain = load_processor(folder)
    assert [n_tokens(plain, size) for size in SIZES] == before
    bounded = load_processor(folder, options=ProcessorOptions(image_tokens=bound))
    assert [n_tokens(bounded, size) for size in SIZES] == after
    # A bound that is met already changes nothing.
    loose = load_processor(folder, options=ProcessorOptions(image_tokens=1000))
    assert [n_tokens(loose, size) for size in SIZES] == before


def test_gemma_4_has_steps_of_tokens(tiny_checkpoint: Checkpoint) -> None:
    pytest.importorskip("transformers", "5.23", reason="its processor needs torchvision")
    folder, most = str(tiny_checkpoint("gemma4")), {"max_soft_tokens": 280}
    whole = load_processor(folder, options=ProcessorOptions(processor=most))
    bounded = load_processor(folder, options=ProcessorOptions(image_tokens=150, processor=most))
    assert n_tokens(whole, (400, 300)) > 150
    assert 70 < n_tokens(bounded, (400, 300)) <= 150


@pytest.mark.parametrize("family", BOUNDS)
def test_models_accept_images_with_fewer_tokens(
    tiny_checkpoint: Checkpoint, tmp_path: Path, family: str
) -> None:
    image = tmp_path / "photo.png"
    Image.effect_noise((400, 300), 90).convert("RGB").save(image)
    folder, bound = str(tiny_checkpoint(family)), BOUNDS[family][1]
    backend = HuggingFaceBackend(folder, device="cpu", image_tokens=bound)
    _, scores = next(backend.score([ask(image)], ("yes", "no")))
    _, whole = next(HuggingFaceBackend(folder, device="cpu").score([ask(image)], ("yes", "no")))
    assert scores.error is None
    assert whole.prompt_tokens - scores.prompt_tokens == BOUNDS[family][0][1] - BOUNDS[family][2][1]


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "smolvlm", "qwen3_vl"])
def test_scores_equal_plain_calls_with_the_same_options(
    tiny_checkpoint: Checkpoint, tmp_path: Path, family: str
) -> None:
    image = tmp_path / "photo.png"
    Image.effect_noise((300, 400), 90).convert("RGB").save(image)
    folder, bound = str(tiny_checkpoint(family)), BOUNDS[family][1]
    options = ProcessorOptions(image_tokens=bound)
    own = load_processor(folder, options=options).image_processor
    processor = load_processor(folder)
    processor.image_processor = type(own)(**own.to_dict())
    model = load_model(folder, device="cpu").model
    if "llava" in family:
        model.config.image_grid_pinpoints = own.image_grid_pinpoints
    text = ChatTemplate(processor).render(ask(image))
    has_bos = text.startswith(str(processor.tokenizer.bos_token))
    with Image.open(image) as opened:
        inputs = processor(
            text=[text],
            images=[opened.convert("RGB")],
            add_special_tokens=not has_bos,
            return_tensors="pt",
        )
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -1].log_softmax(-1)
    ids = inputs["input_ids"][0].tolist()
    choices = Renderer(processor, supports_images=True).choice_ids(ids, ("yes", "no"))
    expected = [float(logits[token_id]) for token_id in choices]
    backend = HuggingFaceBackend(folder, device="cpu", image_tokens=bound)
    _, scores = next(backend.score([ask(image)], ("yes", "no")))
    assert scores.log_probs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("family", "fewest"), [("llava", 16), ("gemma3", 10), ("smolvlm", 7)])
def test_too_small_a_bound_is_rejected(
    tiny_checkpoint: Checkpoint, family: str, fewest: int
) -> None:
    folder = str(tiny_checkpoint(family))
    load_processor(folder, options=ProcessorOptions(image_tokens=fewest))
    with pytest.raises(BackendError, match=f"image_tokens is {fewest - 1}, but .* Increase it"):
        load_processor(folder, options=ProcessorOptions(image_tokens=fewest - 1))


def test_an_image_that_cannot_meet_the_bound_is_rejected_alone(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    banner, photo = tmp_path / "banner.png", tmp_path / "photo.png"
    Image.new("RGB", (1600, 16)).save(banner)
    Image.new("RGB", (160, 120)).save(photo)
    backend = HuggingFaceBackend(str(tiny_checkpoint("qwen2_vl")), device="cpu", image_tokens=2)
    scores = dict(backend.score([ask(banner), ask(photo)], ("yes", "no")))
    assert "banner.png" in str(scores[0].error)
    assert "more than model.image_tokens=2" in str(scores[0].error)
    assert scores[1].error is None


def test_image_side_makes_images_smaller_first(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.effect_noise((400, 300), 90).convert("RGB").save(path)
    reduced = tmp_path / "reduced.png"
    with Image.open(path) as image:
        image.resize((40, 30), Image.Resampling.LANCZOS).save(reduced)
    folder = str(tiny_checkpoint("qwen2_vl"))
    options = ProcessorOptions(image_side=40)
    bounded = ImageCache(load_processor(folder, options=options)).get((path,))
    by_hand = ImageCache(load_processor(folder)).get((reduced,))
    assert torch.equal(bounded.inputs["pixel_values"], by_hand.inputs["pixel_values"])
    assert len(ImageCache(load_processor(folder)).get((path,)).inputs["pixel_values"]) > len(
        bounded.inputs["pixel_values"]
    )


def test_processor_options_are_those_of_the_processor(tiny_checkpoint: Checkpoint) -> None:
    smolvlm, internvl = (str(tiny_checkpoint(family)) for family in ("smolvlm", "internvl"))
    whole = load_processor(
        smolvlm, options=ProcessorOptions(processor={"do_image_splitting": False})
    )
    assert n_tokens(whole, (400, 300)) == 7
    # InternVL's processor replaces this option by its own default.
    whole = load_processor(internvl, options=ProcessorOptions(processor={"crop_to_patches": False}))
    assert n_tokens(whole, (400, 300)) == 6
    # An attribute of the processor itself.
    longer = load_processor(internvl, options=ProcessorOptions(processor={"image_seq_length": 5}))
    assert n_tokens(longer, (400, 300)) == 27


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"do_image_spliting": False},
            r"do_image_spliting is not an option of .*do_image_splitting",
        ),
        ({"return_tensors": "np"}, "return_tensors is not an option"),
        ({"size": "large"}, r"rejects model.processor=\{'size': 'large'\}"),
    ],
)
def test_wrong_processor_options_are_rejected(
    tiny_checkpoint: Checkpoint, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        load_processor(str(tiny_checkpoint("smolvlm")), options=ProcessorOptions(processor=options))


def test_text_only_checkpoints_reject_options_of_images(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(BackendError, match="reads text only"):
        load_processor(str(tiny_checkpoint("llama")), options=ProcessorOptions(image_side=64))


@pytest.mark.parametrize("value", [True, False])
def test_template_variables_reach_the_template(tiny_checkpoint: Checkpoint, value: bool) -> None:
    options = ProcessorOptions(template={"enable_thinking": value})
    processor = load_processor(str(tiny_checkpoint("qwen3_5")), options=options)
    renderer = Renderer(processor, supports_images=True)
    text = renderer.tokenizer.decode(renderer.render(ask()).input_ids)
    assert text.endswith("<think>\n" if value else "<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["add_generation_prompt", "messages"])
def test_template_variables_of_the_package_are_rejected(
    tiny_checkpoint: Checkpoint, name: str
) -> None:
    options = ProcessorOptions(template={name: False})
    with pytest.raises(BackendError, match=f"model.template.{name} is set by the package"):
        load_processor(str(tiny_checkpoint("qwen3_5")), options=options)


def test_unknown_template_variables_are_rejected(tiny_checkpoint: Checkpoint) -> None:
    options = ProcessorOptions(template={"thinking_budget": 5})
    with pytest.raises(BackendError, match=r"no variable 'thinking_budget'. Remove model.template"):
        load_processor(str(tiny_checkpoint("qwen3_5")), options=options)


@pytest.mark.parametrize("name", ["if", "content", "raise_exception"])
def test_words_of_a_template_are_no_variables(tiny_checkpoint: Checkpoint, name: str) -> None:
    options = ProcessorOptions(template={name: True})
    with pytest.raises(BackendError, match=f"no variable {name!r}.*Available: .*enable_thinking"):
        load_processor(str(tiny_checkpoint("qwen3_5")), options=options)


@pytest.mark.parametrize(
    ("family", "options"),
    [("smolvlm", {"image_seq_len": 9}), ("llava", {"patch_size": 28})],
)
def test_options_that_contradict_the_weights_are_rejected(
    tiny_checkpoint: Checkpoint, family: str, options: dict[str, int]
) -> None:
    (name,) = options
    with pytest.raises(BackendError, match=rf"does not fit model.processor.{name}=.*Remove"):
        load_model(
            str(tiny_checkpoint(family)), device="cpu", options=ProcessorOptions(processor=options)
        )


def test_options_identify_answers(tiny_checkpoint: Checkpoint) -> None:
    folder = str(tiny_checkpoint("smolvlm"))
    plain = HuggingFaceBackend(folder).fingerprint
    assert HuggingFaceBackend(folder, processor={}, template={}).fingerprint == plain
    changed = {
        HuggingFaceBackend(folder, image_side=64).fingerprint,
        HuggingFaceBackend(folder, image_tokens=64).fingerprint,
        HuggingFaceBackend(folder, processor={"do_image_splitting": False}).fingerprint,
        HuggingFaceBackend(folder, template={"x": 1}).fingerprint,
    }
    assert len(changed) == 4
    assert all(each.startswith(plain) and each != plain for each in changed)


def test_weights_record_their_options(
    tiny_checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import peft
    import transformers

    folder = tiny_checkpoint("smolvlm")
    base = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(base, config).save_pretrained(tmp_path)
    assert recorded_options(tmp_path) == ""
    options = ProcessorOptions(image_tokens=20)
    options.save(tmp_path)
    assert recorded_options(tmp_path) == options.fingerprint == '{"image_tokens": 20}'
    load_model(str(folder), device="cpu", adapter=tmp_path, options=options)
    assert not caplog.messages
    load_model(str(folder), device="cpu", adapter=tmp_path)
    assert any('was fine-tuned with the options {"image_tokens": 20}' in m for m in caplog.messages)
