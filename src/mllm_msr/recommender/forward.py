"""The two things that training asks of a model: the loss of a batch, and P(yes) of a batch.

Both compute logits only where they are read and in float32, however long the prompts are: with
bfloat16 logits near 20 many candidates of a user would tie exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.rendering import IGNORED_LABEL


def example_losses(model: nn.Module, inputs: Mapping[str, Any], labels: Tensor) -> Tensor:
    """Mean cross-entropy of each example's labelled tokens.

    Each example weighs the same whatever its length, so that one batch of eight and eight
    batches of one give the same gradient.

    Args:
        model: A causal language model of Transformers.
        inputs: What its `forward` takes, without labels; padded on the right.
        labels: Token ids, or `IGNORED_LABEL`: [batch, length].

    Returns:
        Natural units, float32: [batch].
    """
    targets = labels[:, 1:]
    positions = (targets != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)  # [places]
    targets = targets[:, positions]
    output = model(**inputs, logits_to_keep=positions, use_cache=False)
    logits = output.logits.float()  # [batch, places, vocabulary]
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.sum(dim=1) / (targets != IGNORED_LABEL).sum(dim=1)


def choice_logits(model: nn.Module, inputs: Mapping[str, Any], choice_ids: Sequence[int]) -> Tensor:
    """Logits of some tokens as the first new one.

    Args:
        model: A causal language model of Transformers.
        inputs: What its `forward` takes; padded on the right.
        choice_ids: Ids of the tokens.

    Returns:
        float32: [batch, choices].
    """
    last = inputs["attention_mask"].sum(dim=1) - 1
    positions, place = last.unique(return_inverse=True)
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    states: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
    try:
        model(**inputs, logits_to_keep=positions, use_cache=False)
    finally:
        hook.remove()
    hidden: Tensor = states[-1][
        torch.arange(len(last), device=last.device), place
    ]  # [batch, hidden]
    rows = torch.tensor(choice_ids, device=layer.weight.device)
    with torch.autocast(hidden.device.type, enabled=False):
        logits: Tensor = hidden.float() @ layer.weight[rows].float().T
        return logits if layer.bias is None else logits + layer.bias[rows].float()
