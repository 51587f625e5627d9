"""Prefix sharing in training: the common prefix of prompts is computed once.

The ranker's prompt begins with the candidate's image, the instruction and the title (Figure 3 of
the paper), which is three quarters of a prompt of the demo model. Examples of one item are
adjacent in a step (`sampler.py`): the model computes their prefix once, the suffix of each prompt
attends to its keys and values, and the gradients of all suffixes flow back through it together.
With `recommend.order=user-first`, the candidates of a target share the instruction and the
preference in the same way, and their suffixes contain the images. Losses and gradients equal those
of full prompts, except for rounding and for dropout, whose mask the prompts of a prefix share.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mllm_msr.models.inputs import Rendered
from mllm_msr.models.last_token import logits_at
from mllm_msr.models.prefix_support import (
    ANY_PREFIX,
    PrefixSupport,
    common_prefix_length,
    why_not_in_training,
)
from mllm_msr.models.states import StateReader

# Two passes are used only if they compute at most this fraction of the tokens of one pass.
_MAX_COST: Final = 0.9


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Distinct prefixes of the prompts in a batch.

    Attributes:
        rows: First row of the batch with each prefix: [prefixes].
        prefix_of_row: Index of each row's prefix: [batch].
        lengths: Tokens of each prefix: [prefixes].
        images_in_suffix: Whether the images follow the prefixes instead of being part of them.
    """

    rows: tuple[int, ...]
    prefix_of_row: tuple[int, ...]
    lengths: tuple[int, ...]
    images_in_suffix: bool = False


def supports_shared_prefixes(model: nn.Module) -> bool:
    """Check whether a model can compute prefixes separately from the suffixes of the prompts.

    Args:
        model: Transformers model, with or without PEFT's wrapper.
    """
    return not why_not_in_training(model)


def find_shared_prefixes(
    prompts: Sequence[Rendered],
    image_token_ids: frozenset[int],
    *,
    targets: Sequence[Hashable] | None = None,
    support: PrefixSupport = ANY_PREFIX,
) -> SharedPrefixes | None:
    """Find the prefixes that prompts share, if computing them once saves work.

    A prompt that shares its prefix with no other is split, too, so that its suffix is no longer
    than those of the others.

    Args:
        prompts: Rendered prompts of a batch.
        image_token_ids: Ids of image placeholder tokens.
        targets: Target of each prompt, if prompts begin with the user: prompts of one target share
            what precedes their images. Otherwise, prompts of the same images share what they begin
            with.
        support: What the model allows: images after the prefix, and prefix and suffix no longer
            than its sliding window, in which the padding between them takes room.

    Returns:
        `None` if too little work is saved or the model does not allow it; and without `targets`
        also if a prompt has no image, or if prompts of the same images differ before them.
    """
    keys = [prompt.images for prompt in prompts] if targets is None else list(targets)
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    is_allowed = support.images_are_causal if targets is not None else all(keys)
    if len(groups) == len(prompts) or not is_allowed:
        return None
    # The last token is never part of the prefix: the answer is predicted from it.
    limits = [len(prompt.input_ids) - 1 for prompt in prompts]
    if targets is not None:
        limits = [_text_length(prompt.input_ids[:-1], image_token_ids) for prompt in prompts]
    lengths = _prefix_lengths(prompts, groups, limits)
    rows_by_key = list(enumerate(keys))
    sizes = [len(prompt.input_ids) for prompt in prompts]
    suffix = max(sizes[row] - lengths[key] for row, key in rows_by_key)
    one_pass = len(prompts) * max(sizes)
    two_passes = len(groups) * max(lengths.values()) + len(prompts) * suffix
    answer = max(len(prompt.answer_ids) for prompt in prompts)
    exceeds_window = 0 < support.window < max(lengths.values()) + suffix + answer
    if min(lengths.values()) < 1 or exceeds_window or two_passes > _MAX_COST * one_pass:
        return None
    if targets is None and any(
        not image_token_ids.isdisjoint(prompts[row].input_ids[lengths[key] :])
        for row, key in rows_by_key
    ):
        return None
    indices = {key: index for index, key in enumerate(groups)}
    return SharedPrefixes(
        rows=tuple(rows[0] for rows in groups.values()),
        prefix_of_row=tuple(indices[key] for key in keys),
        lengths=tuple(lengths[key] for key in groups),
        images_in_suffix=targets is not None,
    )


def _prefix_lengths(
    prompts: Sequence[Rendered], groups: Mapping[Any, Sequence[int]], limits: Sequence[int]
) -> dict[Any, int]:
    """Return the length of the prefix of each group, at most the limit of each prompt.

    Args:
        prompts: Rendered prompts of a batch.
        groups: Rows of each group; at least one group has several.
        limits: Upper bound on the prefix of each prompt: [batch].
    """
    lengths: dict[Any, int] = {}
    for key, rows in groups.items():
        if len(rows) > 1:
            ids = [prompts[row].input_ids for row in rows]
            shared = common_prefix_length(min(ids), max(ids))
            lengths[key] = min(shared, *(limits[row] for row in rows))
    sizes = [len(prompt.input_ids) for prompt in prompts]
    suffix = max(sizes[row] - n for key, n in lengths.items() for row in groups[key])
    for key, (row, *_) in groups.items():
        lengths.setdefault(key, min(limits[row], max(1, sizes[row] - suffix)))
    return lengths


def _text_length(ids: Sequence[int], image_token_ids: frozenset[int]) -> int:
    """Return the number of tokens before the first image."""
    return next((n for n, token in enumerate(ids) if token in image_token_ids), len(ids))


def prefill_shared_prefixes(
    model: nn.Module, inputs: Mapping[str, Any], prefixes: SharedPrefixes
) -> tuple[dict[str, Any], Tensor]:
    """Run a model over the shared prefixes of a batch.

    Args:
        model: Model that supports it, see `supports_shared_prefixes`.
        inputs: `input_ids` and `attention_mask` of full prompts, padded on the right [batch,
            length], and the image inputs of `forward` for `prefixes.rows`, in order, or for all
            prompts if the images follow the prefixes.
        prefixes: Prefixes of these prompts.

    Returns:
        Inputs of `forward` for the suffix of every prompt, with the keys and values of its prefix,
        and the position in the prompt where the suffix starts [batch].
    """
    images = dict(inputs)
    ids, mask = images.pop("input_ids"), images.pop("attention_mask")
    # The inputs with one value for each token, the tokens on the last axis.
    by_token = {"input_ids": ids}
    positions = StateReader(model).positions(inputs)
    if positions is not None:
        by_token["position_ids"] = positions
    by_token |= {name: images.pop(name) for name in inputs if name.endswith("token_type_ids")}
    earlier, later = ({}, images) if prefixes.images_in_suffix else (images, {})
    device, rows = ids.device, torch.tensor(prefixes.rows, device=ids.device)
    prefix_of_row = torch.tensor(prefixes.prefix_of_row, device=device)
    lengths = torch.tensor(prefixes.lengths, device=device)
    indices = torch.arange(max(prefixes.lengths), device=device)
    prefix_mask = (indices < lengths.unsqueeze(1)).long()  # [prefixes, longest prefix]
    cache = DynamicCache()
    with logits_at(model, lengths - 1):
        model(
            **{k: v.index_select(-2, rows)[..., : len(indices)] for k, v in by_token.items()},
            attention_mask=prefix_mask,
            past_key_values=cache,
            use_cache=True,
            **earlier,
        )
    for layer in cache.layers:
        layer.keys, layer.values = (
            tensor.index_select(0, prefix_of_row) for tensor in (layer.keys, layer.values)
        )
    starts, ends = lengths[prefix_of_row], mask.sum(dim=1)
    # [batch, longest suffix]
    indices = starts.unsqueeze(1) + torch.arange(int((ends - starts).max()), device=device)
    suffix_mask = (indices < ends.unsqueeze(1)).long()
    found = indices.clamp(max=ids.shape[1] - 1)
    suffixes = {
        "position_ids": indices,
        **{k: v.gather(-1, found.expand(*v.shape[:-1], -1)) for k, v in by_token.items()},
        **later,
        "attention_mask": torch.cat([prefix_mask[prefix_of_row], suffix_mask], dim=1),
        "past_key_values": cache,
        "use_cache": True,
    }
    return suffixes, starts
