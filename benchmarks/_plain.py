"""What the two baselines of the speed benchmarks share: Transformers as its documentation shows it."""

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

# Makes the context of one step's forward pass.
Autocast = Callable[[], AbstractContextManager[Any]]


class PlainModel:
    """A model and its processor, one batch at a time.

    Args:
        loaded: The checkpoint.
    """

    def __init__(self, loaded: LoadedCheckpoint) -> None:
        self.model: Any = loaded.model
        self.processor: Any = loaded.processor
        self.tokenizer: Any = loaded.processor.tokenizer
        self.tokenizer.padding_side = "left"

    def text(self, prompt: Prompt) -> str:
        """A prompt as the chat template writes it."""
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
        """A batch as the processor makes it, padded on the left, on the model's device.

        Args:
            prompts: All with a image or all without.
            answers: Words that follow the prompts.
        """
        texts = [self.text(prompt) for prompt in prompts]
        if answers:
            texts = [text + answer for text, answer in zip(texts, answers, strict=True)]
        opened = [Image.open(path).convert("RGB") for prompt in prompts for path in prompt.images]
        batch = self.processor(text=texts, images=opened or None, padding=True, return_tensors="pt")
        dtype = self.model.dtype
        return {
            name: tensor.to(self.model.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in batch.items()
        }

    def completions(self, output: Any, inputs: dict[str, Any]) -> list[Completion]:
        """What `generate` added to a batch."""
        new = output[:, inputs["input_ids"].shape[1] :]  # [batch, new tokens]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        read = inputs["attention_mask"].sum(dim=1).tolist()
        written = (new != self.tokenizer.pad_token_id).sum(dim=1).tolist()
        return [
            Completion(text.strip(), prompt_tokens=n_read, output_tokens=n_written)
            for text, n_read, n_written in zip(texts, read, written, strict=True)
        ]


def fine_tune(
    model: torch.nn.Module,
    batches: Iterable[Sequence[Example]],
    loss_of: Callable[[Sequence[Example]], Tensor],
    *,
    rate: float,
    autocast: Autocast,
) -> list[float]:
    """One step of AdamW for each batch.

    Args:
        model: The model with its LoRA matrices, in training mode.
        batches: In the order in which they are seen.
        loss_of: Mean loss of a batch.
        rate: Learning rate.
        autocast: Entered anew in each step, since it remembers the weights that it has cast.

    Returns:
        The loss of each step.
    """
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=rate)
    losses = []
    for batch in batches:
        with autocast():
            loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def shows_image(prompt: Prompt) -> bool:
    """Whether any part of a prompt is a image."""
    return any(isinstance(part, ImagePart) for m in prompt.messages for part in m.parts)


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many of them, the last perhaps shorter."""
    stream = iter(things)
    while batch := list(itertools.islice(stream, size)):
        yield batch
