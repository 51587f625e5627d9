"""Prefix sharing in training: the common prefix of prompts of one image is computed once.

The ranker's prompt begins with the candidate's image, the instruction and the title (Figure 3 of
the paper), which is three quarters of a prompt of the demo model. Examples of one image are
adjacent in a step (`sampler.py`): the model computes their prefix once, the suffix of each prompt
attends to its keys and values, and the gradients of all suffixes flow back through it together.
Losses and gradients equal those of full prompts, except for rounding and for dropout, whose mask
the prompts of a prefix share.
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
from mllm_msr.models.prefix_support import can_share_prefixes, common_prefix_length

# Two passes are used only if they compute at most this fraction of the tokens of one pass.
_MAX_COST: Final = 0.9


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Distinct prefixes of the prompts in a batch.

    Attributes:
        rows: First row of the batch with each prefix: [prefixes].
        prefix_of_row: Index of each row's prefix: [batch].
        lengths: Tokens of each prefix: [prefixes].
    """

    rows: tuple[int, ...]
    prefix_of_row: tuple[int, ...]
    lengths: tuple[int, ...]


def supports_shared_prefixes(model: nn.Module) -> bool:
    """Check whether a model can compute prefixes separately from the suffixes of the prompts.

    Args:
        model: Transformers model, with or without PEFT's wrapper.
    """
    return can_select_positions(model) and can_share_prefixes(model.config)


def find_shared_prefixes(
    prompts: Sequence[Rendered], image_token_ids: frozenset[int]
) -> SharedPrefixes | None:
    """Find the prefixes that prompts of one image share, if computing them once saves work.

    A prompt whose image appears once is split, too, so that its suffix is no longer than those of
    the others.

    Args:
        prompts: Rendered prompts of a batch.
        image_token_ids: Ids of image placeholder tokens.

    Returns:
        `None` if a prompt does not have exactly one image, if prompts of one image differ before
        it, or if too little work is saved.
    """
    groups: dict[tuple[Path, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt.images, []).append(row)
    if any(len(images) != 1 for images in groups) or len(groups) == len(prompts):
        return None
    lengths: dict[tuple[Path, ...], int] = {}
    for images, rows in groups.items():
        if len(rows) > 1:
            ids = [prompts[row].input_ids for row in rows]
            shared = common_prefix_length(min(ids), max(ids))
            # The last token is never part of the prefix: the answer is predicted from it.
            lengths[images] = min(shared, min(map(len, ids)) - 1)
    repeated = [prompt for prompt in prompts if prompt.images in lengths]
    suffix = max(len(prompt.input_ids) - lengths[prompt.images] for prompt in repeated)
    for prompt in prompts:
        lengths.setdefault(prompt.images, max(1, len(prompt.input_ids) - suffix))
    image_in_suffix = any(
        not image_token_ids.isdisjoint(prompt.input_ids[lengths[prompt.images] :])
        for prompt in prompts
    )
    one_pass = len(prompts) * max(len(prompt.input_ids) for prompt in prompts)
    two_passes = len(groups) * max(lengths.values()) + len(prompts) * suffix
    if image_in_suffix or two_passes > _MAX_COST * one_pass:
        return None
    indices = {images: index for index, images in enumerate(groups)}
    return SharedPrefixes(
        rows=tuple(rows[0] for rows in groups.values()),
        prefix_of_row=tuple(indices[prompt.images] for prompt in prompts),
        lengths=tuple(lengths[images] for images in groups),
    )


def prefill_shared_prefixes(
    model: nn.Module, inputs: Mapping[str, Any], prefixes: SharedPrefixes
) -> tuple[dict[str, Any], Tensor]:
    """Run a model over the shared prefixes of a batch.

    Args:
        model: Model that supports it, see `supports_shared_prefixes`.
        inputs: `input_ids` and `attention_mask` of full prompts, padded on the right [batch,
            length], and the image inputs of `forward` for `prefixes.rows`, in order.
        prefixes: Prefixes of these prompts.

    Returns:
        Inputs of `forward` for the suffix of every prompt, with the keys and values of its prefix,
        and the position in the prompt where the suffix starts [batch].
    """
    images = dict(inputs)
    ids, mask = images.pop("input_ids"), images.pop("attention_mask")
    device = ids.device
    prefix_of_row = torch.tensor(prefixes.prefix_of_row, device=device)
    lengths = torch.tensor(prefixes.lengths, device=device)
    positions = torch.arange(max(prefixes.lengths), device=device)
    prefix_mask = (positions < lengths.unsqueeze(1)).long()  # [prefixes, longest prefix]
    cache = DynamicCache()
    with select_positions(model, lengths - 1):
        model(
            input_ids=ids[list(prefixes.rows), : prefix_mask.shape[1]],
            attention_mask=prefix_mask,
            past_key_values=cache,
            use_cache=True,
            **images,
        )
    for layer in cache.layers:
        layer.keys, layer.values = (
            tensor.index_select(0, prefix_of_row) for tensor in (layer.keys, layer.values)
        )
    starts, ends = lengths[prefix_of_row], mask.sum(dim=1)
    # [batch, longest suffix]
    positions = starts.unsqueeze(1) + torch.arange(int((ends - starts).max()), device=device)
    suffix_mask = (positions < ends.unsqueeze(1)).long()
    suffixes = {
        "input_ids": ids.gather(1, positions.clamp(max=ids.shape[1] - 1)),
        "attention_mask": torch.cat([prefix_mask[prefix_of_row], suffix_mask], dim=1),
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }
    return suffixes, starts
