"""Plain Transformers calls, as in its documentation, for the baselines "released" and "strong".

The two differ in how they form batches and which logits they compute.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from mllm_msr.models.loading import LoadedCheckpoint
from mllm_msr.ranker.examples import Example
from mllm_msr.types import Completion, ImagePart, Prompt, TextPart

T = TypeVar("T")

# Function that returns the autocast context of one forward pass.
Autocast = Callable[[], AbstractContextManager[Any]]


class TransformersModel:
    """A model and its processor.

    Args:
        loaded: The checkpoint.
    """

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        self.model: Any = loaded.model
        self.processor: Any = loaded.processor
        self.tokenizer: Any = loaded.processor.tokenizer
        self.tokenizer.padding_side = "left"

    def text(self, prompt: Prompt) -> str:
        """Render a prompt with the chat template."""
        messages = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text}
                    if isinstance(part, TextPart)
                    else {"type": "image"}
                    for part in message.parts
                ],
            }
            for message in prompt.messages
        ]
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return text

    def inputs(self, prompts: Sequence[Prompt], *, answers: Sequence[str] = ()) -> dict[str, Any]:
        """Return a left-padded batch of the processor on the model's device.

        Args:
            prompts: Prompts, either all with an image or all without.
            answers: Answers to append to the prompts.
        """
        texts = [self.text(prompt) for prompt in prompts]
        if answers:
            texts = [text + answer for text, answer in zip(texts, answers, strict=True)]
        images = [Image.open(path).convert("RGB") for prompt in prompts for path in prompt.images]
        batch = self.processor(text=texts, images=images or None, padding=True, return_tensors="pt")
        dtype = self.model.dtype
        return {
            name: tensor.to(self.model.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in batch.items()
        }

    def completions(self, output: Any, inputs: dict[str, Any]) -> list[Completion]:
        """Convert the output of the model's `generate` into completions."""
        new = output[:, inputs["input_ids"].shape[1] :]  # [batch, new tokens]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        output_tokens = (new != self.tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            Completion(text.strip(), prompt_tokens=n_prompt, output_tokens=n_output)
            for text, n_prompt, n_output in zip(texts, prompt_tokens, output_tokens, strict=True)
        ]


def fine_tune(
    model: torch.nn.Module,
    batches: Iterable[Sequence[Example]],
    compute_loss: Callable[[Sequence[Example]], Tensor],
    *,
    learning_rate: float,
    autocast: Autocast,
) -> list[float]:
    """Fine-tune a model with AdamW, one step per batch.

    Args:
        model: Model with LoRA matrices, in training mode.
        batches: Batches, in the order of the steps.
        compute_loss: Computes the mean loss of a batch.
        learning_rate: Learning rate.
        autocast: Called in each step, because an autocast context caches the cast weights.

    Returns:
        The loss of each step.
    """
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=learning_rate)
    losses = []
    for batch in batches:
        with autocast():
            loss = compute_loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def has_image(prompt: Prompt) -> bool:
    """Return whether a prompt contains an image."""
    return any(isinstance(part, ImagePart) for m in prompt.messages for part in m.parts)


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split values into lists of `size`; the last one may be shorter."""
    stream = iter(values)
    while batch := list(itertools.islice(stream, size)):
        yield batch
