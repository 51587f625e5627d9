"""What the prompts of one image share in a batch: read once, and learned from once.

The recommender's prompt begins with the candidate's image, the instruction and the title (Figure
3 of the paper): of the packaged model's prompts three quarters. Examples of one image stand
side by side (`schedule`); their beginning goes through the model once, the rest of each prompt
looks at its keys and values, and the gradients of all of them go back through it together. Losses
and gradients are those of whole prompts but for rounding and for dropout, whose mask they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mllm_msr.models.inputs import Rendered
from mllm_msr.models.last_token import can_select_positions, select_positions
from mllm_msr.models.prefix_sharing import can_share_prefixes, common_prefix_length

# Two passes must read this much less than one, or they are not worth their own cost.
_WORTH: Final = 0.9


@dataclass(frozen=True, slots=True)
class Beginnings:
    """The different beginnings of a batch's prompts.

    Attributes:
        rows: Of each beginning, the first row that has it: [beginnings].
        owners: Of each row, the number of its beginning: [batch].
        lengths: Tokens of each beginning: [beginnings].
    """

    rows: tuple[int, ...]
    owners: tuple[int, ...]
    lengths: tuple[int, ...]


def can_read_beginnings(model: nn.Module) -> bool:
    """Whether a model may read beginnings apart from what follows them.

    Args:
        model: A model of Transformers, perhaps wrapped by PEFT.
    """
    return can_select_positions(model) and can_share_prefixes(model.config)


def find_beginnings(
    prompts: Sequence[Rendered], image_token_ids: frozenset[int]
) -> Beginnings | None:
    """What prompts of one image share, wherever reading that apart saves work.

    A prompt whose image no other one shows is cut as well, so that its rest is no longer than
    those of the others.

    Args:
        prompts: Rendered prompts, a batch.
        image_token_ids: Placeholders of images' tokens.

    Returns:
        `None` where a prompt has no image or several, where text stands before a image that
        is not shared, and where little is saved.
    """
    groups: dict[tuple[Path, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt.images, []).append(row)
    if any(len(images) != 1 for images in groups) or len(groups) == len(prompts):
        return None
    lengths = {
        images: _shared_length([prompts[row].input_ids for row in rows])
        for images, rows in groups.items()
        if len(rows) > 1
    }
    kin = [prompt for prompt in prompts if prompt.images in lengths]
    rest = max(len(prompt.input_ids) - lengths[prompt.images] for prompt in kin)
    for prompt in prompts:
        lengths.setdefault(prompt.images, max(1, len(prompt.input_ids) - rest))
    cut = any(
        not image_token_ids.isdisjoint(prompt.input_ids[lengths[prompt.images] :])
        for prompt in prompts
    )
    whole = len(prompts) * max(len(prompt.input_ids) for prompt in prompts)
    apart = len(groups) * max(lengths.values()) + len(prompts) * rest
    if cut or apart > _WORTH * whole:
        return None
    numbers = {images: number for number, images in enumerate(groups)}
    return Beginnings(
        rows=tuple(rows[0] for rows in groups.values()),
        owners=tuple(numbers[prompt.images] for prompt in prompts),
        lengths=tuple(lengths[images] for images in groups),
    )


def _shared_length(group: Sequence[tuple[int, ...]]) -> int:
    """Tokens that several prompts begin with: the last of each, to be answered, stays outside."""
    return min(common_prefix_length(min(group), max(group)), min(map(len, group)) - 1)


def read_beginnings(
    model: nn.Module, inputs: Mapping[str, Any], beginnings: Beginnings
) -> tuple[dict[str, Any], Tensor]:
    """Run a model over the beginnings of a batch's prompts.

    Args:
        model: One for which `can_read_beginnings` holds.
        inputs: `input_ids` and `attention_mask` of whole prompts, padded on the right [batch,
            length], and what `forward` takes for the images of `beginnings.rows`, in order.
        beginnings: Of these prompts.

    Returns:
        What `forward` takes for the rest of every prompt, keys and values of its beginning with
        it, and the place in the prompt where that rest starts [batch].
    """
    images = dict(inputs)
    ids, mask = images.pop("input_ids"), images.pop("attention_mask")
    device = ids.device
    owners = torch.tensor(beginnings.owners, device=device)
    lengths = torch.tensor(beginnings.lengths, device=device)
    places = torch.arange(max(beginnings.lengths), device=device)
    seen = (places < lengths.unsqueeze(1)).long()  # [beginnings, longest]
    states = DynamicCache()
    with select_positions(model, lengths - 1):
        model(
            input_ids=ids[list(beginnings.rows), : seen.shape[1]],
            attention_mask=seen,
            past_key_values=states,
            use_cache=True,
            **images,
        )
    for layer in states.layers:
        layer.keys, layer.values = (
            tensor.index_select(0, owners) for tensor in (layer.keys, layer.values)
        )
    starts, ends = lengths[owners], mask.sum(dim=1)
    places = starts.unsqueeze(1) + torch.arange(int((ends - starts).max()), device=device)
    rest = {
        "input_ids": ids.gather(1, places.clamp(max=ids.shape[1] - 1)),  # [batch, longest rest]
        "attention_mask": torch.cat([seen[owners], (places < ends.unsqueeze(1)).long()], dim=1),
        "position_ids": places,
        "past_key_values": states,
        "use_cache": True,
    }
    return rest, starts
