"""Loss of a training batch, and choice logits for P(yes).

Both compute logits only at the positions that are used, and in float32: with bfloat16 logits near
20, many candidates of a user would tie exactly. If `models/last_token.py` supports the model, the
last decoder layer runs only at these positions, too. Prefixes that prompts of one item share are
computed once (`prefix_sharing.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mllm_msr.models.inputs import IGNORED_LABEL
from mllm_msr.models.last_token import can_select_positions, select_positions
from mllm_msr.ranker.training.prefix_sharing import SharedPrefixes, prefill_shared_prefixes


def example_losses(
    model: nn.Module,
    inputs: Mapping[str, Any],
    labels: Tensor,
    prefixes: SharedPrefixes | None = None,
) -> Tensor:
    """Return the mean cross-entropy of each example's labeled tokens.

    Every example has the same weight regardless of its length, so that one batch of eight and
    eight batches of one give the same gradient.

    Args:
        model: Causal language model of Transformers.
        inputs: What its `forward` takes, without labels; padded on the right.
        labels: Token ids or `IGNORED_LABEL`: [batch, length].
        prefixes: Prefixes that the prompts share; none of their tokens is labeled.

    Returns:
        Losses in nats, float32: [batch].
    """
    targets = labels[:, 1:]
    rows, positions = (targets != IGNORED_LABEL).nonzero(as_tuple=True)  # [labeled]
    labeled = targets[rows, positions]
    if prefixes is not None:
        inputs, starts = prefill_shared_prefixes(model, inputs, prefixes)
        positions = positions - starts[rows]
    with _output_layer_at(model, rows, positions):
        output = model(**{"use_cache": False, **inputs})
    logits = output.logits.float()  # [1, labeled, vocabulary]
    losses = nn.functional.cross_entropy(logits[0], labeled, reduction="none")
    n_labeled = torch.bincount(rows, minlength=len(labels))
    return losses.new_zeros(len(labels)).index_add(0, rows, losses) / n_labeled


def list_losses(
    differences: Tensor, labels: Tensor, sizes: Sequence[int], *, pointwise_share: float
) -> Tensor:
    """Return the loss of each target: how well its positive stands out among its candidates.

    The loss is the negative log-softmax of the positive over the candidates, plus a share of the
    mean cross-entropy of yes and no. The former depends only on differences between candidates; the
    latter keeps P(yes) = sigmoid(difference) a probability.

    Args:
        differences: Logit of yes minus logit of no of each candidate: [candidates].
        labels: 1 for the positive of a target, else 0: [candidates].
        sizes: Number of candidates of each target, whose rows are together.
        pointwise_share: Weight of the cross-entropy of yes and no.

    Returns:
        Losses in nats: [targets].
    """
    pointwise = nn.functional.binary_cross_entropy_with_logits(
        differences, labels, reduction="none"
    )
    parts = (torch.split(each, list(sizes)) for each in (differences, labels, pointwise))
    return torch.stack(
        [
            nn.functional.cross_entropy(own, positive.argmax()) + pointwise_share * binary.mean()
            for own, positive, binary in zip(*parts, strict=True)
        ]
    )


def choice_logits(
    model: nn.Module,
    inputs: Mapping[str, Any],
    choice_ids: Sequence[int],
    prefixes: SharedPrefixes | None = None,
) -> Tensor:
    """Return the logits of some tokens as the next token after each prompt.

    Args:
        model: Causal language model of Transformers.
        inputs: What its `forward` takes; padded on the right.
        choice_ids: Ids of the tokens.
        prefixes: Prefixes that the prompts share.

    Returns:
        Logits, float32: [batch, choices].
    """
    last = inputs["attention_mask"].sum(dim=1) - 1
    if prefixes is not None:
        inputs, starts = prefill_shared_prefixes(model, inputs, prefixes)
        last = last - starts
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    states: list[Tensor] = []
    with _output_layer_at(model, torch.arange(len(last), device=last.device), last):
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
def _output_layer_at(model: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Restrict the output layer to some positions of a batch, as one row: [1, positions, hidden].

    With exactly one position per row, the last decoder layer runs only at these positions, too.
    """
    one_per_row = bool((rows == torch.arange(len(rows), device=rows.device)).all())
    shorten = one_per_row and can_select_positions(model)

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = arguments[0]  # [batch, length or 1, hidden]
        selected = hidden[:, 0] if shorten else hidden[rows, positions]
        return (selected.unsqueeze(0), *arguments[1:])

    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(select)
    try:
        with select_positions(model, positions) if shorten else nullcontext():
            yield
    finally:
        hook.remove()
