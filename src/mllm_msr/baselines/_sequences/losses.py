"""Losses of next-item prediction.

All losses take `hidden` [n, d], the predicting states, and `table` [n_codes, d], the item vectors;
the scores are their inner products. No loss materializes the scores of a whole batch over a whole
catalog. The choice of the loss affects the quality of SASRec and GRU4Rec more than any other:

- `softmax`: exact cross-entropy over the whole catalog, computed in chunks of rows.
- `sampled_softmax`: cross-entropy over many negatives shared by the batch, for large catalogs
  (with the correction of Bengio & Senécal 2008 for the sampling distribution).
- `bce`: binary cross-entropy with one negative per position (SASRec; Kang & McAuley 2018).
- `bpr_max`, `top1`: losses of GRU4Rec (Hidasi & Karatzoglou 2018; Hidasi et al. 2015).
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LossName = Literal["softmax", "sampled_softmax", "bce", "bpr_max", "top1"]
LOSSES: Final[tuple[LossName, ...]] = get_args(LossName)

# Scores per chunk: 512 rows x 12,000 items in bf16 are 12 MB, about the cache of one core.
_CHUNK_SCORES: Final = 6_000_000


def next_item_loss(
    hidden: Tensor,
    table: Tensor,
    *,
    targets: Tensor,
    negatives: Tensor | None = None,
    log_probability: Tensor | None = None,
    name: LossName = "softmax",
) -> Tensor:
    """Compute the mean loss of predicting the targets.

    Args:
        hidden: Predicting states, [n, d].
        table: Item vectors, [n_codes, d].
        targets: Codes of the next items, [n].
        negatives: Codes shared by all rows, [n_negatives], or one per row, [n], for "bce"; unused
            by "softmax".
        log_probability: For "sampled_softmax", the logarithm of each code's sampling
            probability, [n_codes].
        name: Name of the loss.

    Returns:
        A scalar.

    Raises:
        ValueError: The loss needs `negatives` or `log_probability`, and it is None.
    """
    if name == "softmax":
        return softmax_loss(hidden, table, targets)
    if negatives is None:
        raise ValueError(f"The loss {name!r} needs negatives.")
    positive = (hidden * table[targets]).sum(-1).float()
    if name == "bce":
        negative = (hidden * table[negatives]).sum(-1).float()
        return (softplus(-positive) + softplus(negative)).mean()
    scores = (hidden @ table[negatives].T).float()  # [n, n_negatives]
    hit = targets[:, None] == negatives[None]
    if name == "sampled_softmax":
        if log_probability is None:
            raise ValueError("The loss 'sampled_softmax' needs log_probability.")
        scores = scores - log_probability[negatives]
        positive = positive - log_probability[targets]
        scores = scores.masked_fill(hit, -torch.inf)
        both = torch.cat([positive[:, None], scores], dim=1)
        return (torch.logsumexp(both, dim=1) - positive).mean()
    weight = torch.softmax(scores.masked_fill(hit, -torch.inf), dim=1)
    if name == "bpr_max":
        # Equation 10 of Hidasi & Karatzoglou (2018) with a score regularization of weight 1.
        gains = logsigmoid(positive[:, None] - scores)
        ranking = -torch.logsumexp(gains + weight.clamp(min=1e-30).log(), dim=1)
        return (ranking + (weight * scores**2).sum(1)).mean()
    top1 = torch.sigmoid(scores - positive[:, None]) + torch.sigmoid(scores**2)
    return top1.masked_fill(hit, 0.0).sum(1).div((~hit).sum(1).clamp(min=1)).mean()


def softmax_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy over all codes without materializing all scores.

    Gradients are computed in the forward pass, chunk by chunk, so that the probabilities of each
    chunk are used while they are in the cache. Under autocast the products run in its precision;
    sums stay in float32.

    Args:
        hidden: [n, d].
        table: [n_codes, d].
        targets: Codes, [n].
    """
    loss: Tensor = _ChunkedSoftmax.apply(hidden, table, targets)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        precision = hidden.dtype
        if torch.is_autocast_enabled(device):
            precision = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            states, items = hidden.to(precision), table.to(precision)
            grad_states = torch.empty_like(states)
            # [d, n_codes]: the transposed layout would make the product copy the probabilities.
            grad_items = torch.zeros(table.T.shape, dtype=torch.float32, device=hidden.device)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            rows = max(1, _CHUNK_SCORES // len(items))
            for start in range(0, len(states), rows):
                chunk = slice(start, start + rows)
                probabilities = torch.softmax(states[chunk] @ items.T, dim=1)
                at_target = torch.arange(len(probabilities), device=hidden.device), targets[chunk]
                target_probability = probabilities[at_target]
                # bfloat16 has the exponent range of float32, so it underflows to 0 no earlier.
                total -= target_probability.float().clamp(min=1e-37).log().sum()
                probabilities[at_target] = target_probability - 1
                torch.matmul(probabilities, items, out=grad_states[chunk])
                grad_items += states[chunk].T @ probabilities
        scale = 1 / max(1, len(states))
        ctx.save_for_backward(
            grad_states.mul_(scale).to(hidden.dtype), grad_items.T.mul(scale).to(table.dtype)
        )
        return total * scale

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_items = ctx.saved_tensors
        return grad_states * upstream[0], grad_items * upstream[0], None
