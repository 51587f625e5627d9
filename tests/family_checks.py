"""Checks of one model family against plain calls of its processor and model.

`invariants/test_model_families.py` runs them for every tiny checkpoint. The reference is written
here with Transformers alone: `apply_chat_template`, `processor(...)`, `model(...)` and
`model.generate`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import pytest
import torch
import transformers
from PIL import Image

from mllm_msr.data.images import open_image
from mllm_msr.inference.engine.engine import Engine
from mllm_msr.models.inputs import Renderer
from mllm_msr.models.loading import load_model
from mllm_msr.models.vision_cache import VisionCache
from mllm_msr.ranker.examples import Example
from mllm_msr.ranker.training.checkpoint import TrainingState, load_newest, save_state
from mllm_msr.ranker.training.collator import Collator
from mllm_msr.ranker.training.lora import (
    adapted_layers,
    add_lora,
    image_token_ids,
    load_trainable,
    save_weights,
    trainable_tensors,
)
from mllm_msr.ranker.training.loss import choice_logits, example_losses
from mllm_msr.types import ImagePart, Message, Prompt, TextPart

CHOICES: Final = ("yes", "no")
_TOLERANCE: Final = 1e-5
_NEW_TOKENS: Final = 6
_USERS: Final = ("golden lantern", "calm films on stripes", "colours", "both of one product, yes")


def ask(*parts: str | Path, system: str = "") -> Prompt:
    """Return a dialogue of one user's turn, perhaps after a system's turn."""
    made = [ImagePart(part) if isinstance(part, Path) else TextPart(part) for part in parts]
    turns = [Message("system", (TextPart(system),))] if system else []
    return Prompt((*turns, Message("user", tuple(made))), max_new_tokens=_NEW_TOKENS)


def make_prompts(images: Sequence[Path], *, vision: bool) -> list[Prompt]:
    """Return 24 prompts: images x users, three without an image, one with two images."""
    question = "Answer only yes or no."
    preferences = [f"The user appears to have a preference for {words}. " for words in _USERS]
    shown = [path if vision else path.stem for path in images]
    texts = [words + question for words in preferences]
    prompts = [ask(image, words) for image in shown for words in texts]
    prompts += [ask(words) for words in texts[:3]]
    return [*prompts, ask(*shown[:2], texts[0])]


@dataclass
class Family:
    """One tiny checkpoint, loaded, and its reference values."""

    folder: Path
    vision: bool

    def __post_init__(self) -> None:
        self.loaded = load_model(str(self.folder), dtype="float32", device="cpu")
        self.model: Any = self.loaded.model
        self.processor: Any = self.loaded.processor
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        self.n_errors = 0

    @functools.cached_property
    def engine(self) -> Engine:
        """Return an engine that counts the batches that failed."""
        engine = Engine(self.loaded, batch_size=8)
        for name in ("_score_batch", "_generate_batch"):
            run = getattr(engine, name)
            setattr(engine, name, functools.partial(self._counted, run))
        return engine

    def _counted(self, run: Any, *args: Any) -> Any:
        try:
            return run(*args)
        except (ValueError, jinja2.TemplateError):
            self.n_errors += 1
            raise

    def plain_text(self, prompt: Prompt) -> str:
        """Return a prompt in the markup of the checkpoint, without this package."""
        owner = self.processor if self.processor.chat_template else self.tokenizer
        turns = []
        for message in prompt.messages:
            parts = [
                {"type": "image"}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.parts
            ]
            joined = "".join(part.get("text", "") for part in parts)
            turns.append({"role": message.role, "content": parts if self.vision else joined})
        off = {"enable_thinking": False} if "enable_thinking" in owner.chat_template else {}
        text: str = owner.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **off
        )
        return text

    def plain_inputs(self, prompt: Prompt, answer: str = "") -> dict[str, Any]:
        """Return what the checkpoint's own processor makes of one prompt."""
        text = self.plain_text(prompt) + answer
        bos = self.tokenizer.bos_token
        options: dict[str, Any] = {"return_tensors": "pt"}
        if not self.vision or (bos and text.startswith(bos)):
            options["add_special_tokens"] = False
        if not self.vision:
            return dict(self.tokenizer(text, **options))
        # Sharpened against hostile files, and padded if the shape is extreme.
        opened = [open_image(path) for path in prompt.images]
        if not opened:
            return dict(self.tokenizer([text], **options))
        output = self.processor(text=[text], images=opened, **options)
        return {k: v.float() if v.is_floating_point() else v for k, v in output.items()}

    @torch.inference_mode()
    def plain_scores(self, prompt: Prompt) -> torch.Tensor:
        """Return the log-probabilities of all tokens after one prompt."""
        logits = self.model(**self.plain_inputs(prompt)).logits[0, -1]
        return logits.float().log_softmax(-1)

    def choice_ids(self, prompt: Prompt) -> list[int]:
        """Return the token of each choice, read from prompts with answers."""
        ids = self.plain_inputs(prompt)["input_ids"][0].tolist()
        lead = self._answer_lead(prompt)
        found = []
        for word in CHOICES:
            whole = self.plain_inputs(prompt, lead + word)["input_ids"][0].tolist()
            assert whole[: len(ids)] == ids
            assert len(whole) == len(ids) + 1
            found.append(whole[-1])
        return found

    def _answer_lead(self, prompt: Prompt) -> str:
        answered = Prompt((*prompt.messages, Message("assistant", (TextPart("yes"),))))
        opened, whole = self.plain_text(prompt), self.plain_text_closed(answered)
        lead = whole.removeprefix(opened).partition("yes")[0]
        return lead if whole.startswith(opened) and not lead.strip() else ""

    def plain_text_closed(self, prompt: Prompt) -> str:
        """Return an answered dialogue in the markup of the checkpoint."""
        owner = self.processor if self.processor.chat_template else self.tokenizer
        turns = [
            {
                "role": message.role,
                "content": [
                    {"type": "image"}
                    if isinstance(part, ImagePart)
                    else {"type": "text", "text": part.text}
                    for part in message.parts
                ]
                if self.vision
                else "".join(part.text for part in message.parts if isinstance(part, TextPart)),
            }
            for message in prompt.messages
        ]
        text: str = owner.apply_chat_template(turns, tokenize=False)
        return text


def check_scores(family: Family, prompts: Sequence[Prompt]) -> None:
    """Compare token ids and log-probabilities of batches with plain calls."""
    renderer = Renderer(family.processor, supports_images=family.vision)
    for prompt in prompts:
        expected = family.plain_inputs(prompt)["input_ids"][0].tolist()
        assert list(renderer.render(prompt).input_ids) == expected
    found = dict(family.engine.score(iter(prompts), CHOICES))
    for index, prompt in enumerate(prompts):
        assert found[index].error is None
        expected = family.plain_scores(prompt)[family.choice_ids(prompt)].tolist()
        assert found[index].log_probs == pytest.approx(expected, rel=_TOLERANCE, abs=_TOLERANCE)


def check_texts(family: Family, prompts: Sequence[Prompt]) -> None:
    """Compare greedy answers with `model.generate`."""
    found = dict(family.engine.generate(iter(prompts)))
    assert any(answer.text for answer in found.values())
    eos = family.engine._end_ids
    for index, prompt in enumerate(prompts):
        inputs = family.plain_inputs(prompt)
        with torch.inference_mode():
            output = family.model.generate(
                **inputs,
                generation_config=transformers.GenerationConfig(
                    do_sample=False,
                    max_new_tokens=_NEW_TOKENS,
                    eos_token_id=sorted(eos),
                    pad_token_id=family.tokenizer.pad_token_id,
                ),
            )
        ids = output[0, inputs["input_ids"].shape[1] :]
        assert found[index].error is None
        assert found[index].text == family.tokenizer.decode(ids, skip_special_tokens=True).strip()


def check_system_turn(family: Family, images: Sequence[Path]) -> str:
    """Return how a system's turn reaches the model; its words must be in the prompt."""
    shown = images[:1] if family.vision else ()
    prompt = ask(*shown, "Describe it.", system="You are given a title.")
    rendered = Renderer(family.processor, supports_images=family.vision).render(prompt)
    text = family.tokenizer.decode(rendered.input_ids)
    assert "You are given a title." in text
    assert text.index("You are given") < text.index("Describe it.")
    try:
        plain = family.plain_inputs(prompt)["input_ids"][0].tolist()
    except (ValueError, jinja2.TemplateError):
        plain = []
    return "own turn" if list(rendered.input_ids) == plain else "in the user's turn"


def check_budget(family: Family, images: Sequence[Path]) -> None:
    """Check that a budget of text tokens shortens the text and keeps the image."""
    words = TextPart(" ".join(f"w{number}" for number in range(200)), trimmable=1)
    shown = tuple(ImagePart(path) for path in images[:1]) if family.vision else ()
    turn = Message("user", (*shown, TextPart("Begin. "), words, TextPart(" End.")))
    renderer = Renderer(family.processor, supports_images=family.vision)
    whole = renderer.render(Prompt((turn,)))
    cut = renderer.render(Prompt((turn,), max_text_tokens=120))
    assert cut.trimmed
    assert cut.n_text_tokens <= 120
    n_images = len(whole.input_ids) - whole.n_text_tokens
    assert len(cut.input_ids) - cut.n_text_tokens == n_images
    assert (n_images > 0) == family.vision
    text = family.tokenizer.decode(cut.input_ids)
    assert "Begin. w0 w1" in text
    assert "End." in text


def check_extreme_images(family: Family, folder: Path) -> None:
    """Score images of extreme shapes, which are padded first, or name those that are rejected."""
    prompts = []
    for width, height in [(2100, 10), (10, 2100), (3, 1), (1, 1)]:
        path = folder / f"{width}x{height}.png"
        Image.new("RGB", (width, height), "red").save(path)
        prompts.append(ask(path, "Answer only yes or no."))
    for index, scores in family.engine.score(iter(prompts), CHOICES):
        if scores.error is not None:
            assert prompts[index].images[0].name in scores.error
            continue
        try:
            plain = family.plain_scores(prompts[index])
        except RuntimeError:  # Mistral 3 cannot read an image of one token alone
            continue
        expected = plain[family.choice_ids(prompts[index])].tolist()
        assert scores.log_probs == pytest.approx(expected, rel=_TOLERANCE, abs=_TOLERANCE)


@dataclass
class Training:
    """One training step of a family."""

    layers: list[str]
    caches_features: bool


def check_training(family: Family, examples: Sequence[Example], folder: Path) -> Training:
    """Compare losses and gradients with plain calls; save, load and apply the adapter."""
    loaded = load_model(str(family.folder), dtype="float32", device="cpu")
    model = add_lora(loaded.model, rank=2, alpha=4, dropout=0.0)
    layers = adapted_layers(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.02)
    renderer = Renderer(loaded.processor, supports_images=loaded.supports_images)
    collator = Collator(renderer, examples, image_token_ids=image_token_ids(model))
    rows = list(range(len(examples)))
    model.train()
    for module in model.modules():
        if not any(weight.requires_grad for weight in module.parameters()):
            module.eval()  # the reference would draw a projector's dropout again
    batch = collator.training_batch(rows)
    labels = batch.pop("labels")
    losses = example_losses(model, batch, labels)
    losses.sum().backward()
    gradients = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
    assert gradients
    cache = VisionCache.open(model, renderer, collator.with_images())
    if cache is not None:
        lean = collator.training_batch(rows, pixels=False)
        lean.pop("labels")
        for _ in range(2):
            features = cache.inputs([collator.rendered(row) for row in rows])
            again = example_losses(model, {**lean, **features}, labels)
            assert again.tolist() == pytest.approx(losses.tolist(), abs=_TOLERANCE)
    model.zero_grad()
    plain = []
    for example in examples:
        target = family.choice_ids(example.prompt)[0 if example.label == 1 else 1]
        logits = model(**family.plain_inputs(example.prompt)).logits[0, -1]
        plain.append(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(target)))
    torch.stack(plain).sum().backward()
    assert losses.tolist() == pytest.approx([float(loss) for loss in plain], abs=_TOLERANCE)
    for name, weight in model.named_parameters():
        if name in gradients:
            assert weight.grad is not None
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-4, rtol=1e-3)
    _check_saved_weights(family, model, collator, folder)
    return Training(layers, cache is not None)


def _check_saved_weights(family: Family, model: Any, collator: Collator, folder: Path) -> None:
    """Take a step; score with the saved adapter, and with the state that training resumes from."""
    torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=0.1).step()
    batch = collator.scoring_batch(range(len(collator)))
    expected = _choice_logits(model, batch, collator)
    save_weights(model, family.processor, folder / "adapter", method="lora", step=1)
    loaded = functools.partial(load_model, str(family.folder), dtype="float32", device="cpu")
    tuned = loaded(adapter=folder / "adapter").model
    torch.testing.assert_close(_choice_logits(tuned, batch, collator), expected, atol=1e-4, rtol=0)
    tensors = {f"model.{name}": tensor for name, tensor in trainable_tensors(model).items()}
    save_state(folder, TrainingState(1, tensors, {}, {}))
    state = load_newest(folder)
    assert state is not None
    resumed = add_lora(loaded().model, rank=2, alpha=4, dropout=0.0)
    load_trainable(resumed, state.part("model."))
    torch.testing.assert_close(
        _choice_logits(resumed, batch, collator), expected, atol=1e-6, rtol=0
    )


@torch.inference_mode()
def _choice_logits(model: Any, batch: dict[str, Any], collator: Collator) -> torch.Tensor:
    return choice_logits(model.eval(), batch, collator.choice_ids)
