"""The two things that training asks of a model: the loss of a batch, and P(yes) of a batch.

Both compute logits only where they are read and in float32, however long the prompts are: with
bfloat16 logits near 20 many candidates of a user would tie exactly. The decoder's last layer is
run only there too, where `last_layer` knows the model, and what prompts of one image share is
read once (`beginnings`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.models.inputs import IGNORED_LABEL
from mllm_msr.models.last_token import can_select_positions, select_positions
from mllm_msr.ranker.training.prefix_sharing import Beginnings, read_beginnings


def example_losses(
    model: nn.Module,
    inputs: Mapping[str, Any],
    labels: Tensor,
    beginnings: Beginnings | None = None,
) -> Tensor:
    """Mean cross-entropy of each example's labelled tokens.

    Each example weighs the same whatever its length, so that one batch of eight and eight
    batches of one give the same gradient.

    Args:
        model: A causal language model of Transformers.
        inputs: What its `forward` takes, without labels; padded on the right.
        labels: Token ids, or `IGNORED_LABEL`: [batch, length].
        beginnings: What the prompts share; none of it is labelled.

    Returns:
        Natural units, float32: [batch].
    """
    targets = labels[:, 1:]
    rows, positions = (targets != IGNORED_LABEL).nonzero(as_tuple=True)  # [labelled]
    labelled = targets[rows, positions]
    if beginnings is not None:
        inputs, starts = read_beginnings(model, inputs, beginnings)
        positions = positions - starts[rows]
    with _output_at(model, rows, positions):
        output = model(**{"use_cache": False, **inputs})
    logits = output.logits.float()  # [1, labelled, vocabulary]
    losses = nn.functional.cross_entropy(logits[0], labelled, reduction="none")
    n_labelled = torch.bincount(rows, minlength=len(labels))
    return losses.new_zeros(len(labels)).index_add(0, rows, losses) / n_labelled


def choice_logits(
    model: nn.Module,
    inputs: Mapping[str, Any],
    choice_ids: Sequence[int],
    beginnings: Beginnings | None = None,
) -> Tensor:
    """Logits of some tokens as the first new one.

    Args:
        model: A causal language model of Transformers.
        inputs: What its `forward` takes; padded on the right.
        choice_ids: Ids of the tokens.
        beginnings: What the prompts share.

    Returns:
        float32: [batch, choices].
    """
    last = inputs["attention_mask"].sum(dim=1) - 1
    if beginnings is not None:
        inputs, starts = read_beginnings(model, inputs, beginnings)
        last = last - starts
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    states: list[Tensor] = []
    with _output_at(model, torch.arange(len(last), device=last.device), last):
        hook = layer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
        try:
            model(**{"use_cache": False, **inputs})
        finally:
            hook.remove()
    hidden = states[-1][0]  # [batch, hidden]
    rows = torch.tensor(choice_ids, device=layer.weight.device)
    with torch.autocast(hidden.device.type, enabled=False):
        logits: Tensor = hidden.float() @ layer.weight[rows].float().T
        return logits if layer.bias is None else logits + layer.bias[rows].float()


@contextmanager
def _output_at(model: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Let the output layer see some places of a batch alone, as one row: [1, places, hidden].

    Where that is one place of every row, the decoder's last layer sees no more of them either.
    """
    one_each = bool((rows == torch.arange(len(rows), device=rows.device)).all())
    short = one_each and can_select_positions(model)

    def pick(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = arguments[0]  # [batch, length or 1, hidden]
        picked = hidden[:, 0] if short else hidden[rows, positions]
        return (picked.unsqueeze(0), *arguments[1:])

    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(pick)
    try:
        with select_positions(model, positions) if short else nullcontext():
            yield
    finally:
        hook.remove()
