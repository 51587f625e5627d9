"""Losses over the next item: from hidden states and an item table to one number.

All take `hidden` [n, d], the states that predict, and `table` [n_codes, d], whose dot products are
the scores, so that no caller ever holds the scores of a whole batch over a whole catalog. The
loss moves the quality of SASRec and GRU4Rec more than anything else about them, hence the choice:

- `softmax`: cross-entropy over the whole catalog, exact, a chunk of rows at a time.
- `sampled_softmax`: the same over many negatives that the batch shares, for large catalogs
  (with the correction of Bengio & Senecal 2008 for how they were drawn).
- `bce`: binary cross-entropy with one negative per position (Kang & McAuley 2018).
- `bpr_max`, `top1`: GRU4Rec's own (Hidasi & Karatzoglou 2018; Hidasi et al. 2015).
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LossName = Literal["softmax", "sampled_softmax", "bce", "bpr_max", "top1"]
LOSSES: Final[tuple[LossName, ...]] = get_args(LossName)

# Scores of one chunk: 512 rows x 12,000 items in bf16 are 12 MB, about what a core's cache holds.
_CHUNK_SCORES: Final = 6_000_000


def next_item_loss(
    hidden: Tensor,
    table: Tensor,
    *,
    targets: Tensor,
    negatives: Tensor | None = None,
    log_chance: Tensor | None = None,
    name: LossName = "softmax",
) -> Tensor:
    """The mean loss of predicting each target.

    Args:
        hidden: States that predict: [n, d].
        table: Items' vectors: [n_codes, d].
        targets: Codes of what came next: [n].
        negatives: Codes that the rows share [n_negatives], or one per row [n] for "bce"; unused
            by "softmax".
        log_chance: For "sampled_softmax", the natural logarithm of each code's probability of
            being drawn: [n_codes].
        name: Which loss.

    Returns:
        A scalar of 0 dimensions.

    Raises:
        ValueError: The loss needs negatives, or their chances, and they are not given.
    """
    if name == "softmax":
        return softmax_loss(hidden, table, targets)
    if negatives is None:
        raise ValueError(f"the loss {name!r} needs negatives")
    positive = (hidden * table[targets]).sum(-1).float()
    if name == "bce":
        negative = (hidden * table[negatives]).sum(-1).float()
        return (softplus(-positive) + softplus(negative)).mean()
    scores = (hidden @ table[negatives].T).float()  # [n, n_negatives]
    hit = targets[:, None] == negatives[None]
    if name == "sampled_softmax":
        if log_chance is None:
            raise ValueError("the loss 'sampled_softmax' needs log_chance")
        scores = scores - log_chance[negatives]
        positive = positive - log_chance[targets]
        scores = scores.masked_fill(hit, -torch.inf)
        both = torch.cat([positive[:, None], scores], dim=1)
        return (torch.logsumexp(both, dim=1) - positive).mean()
    weight = torch.softmax(scores.masked_fill(hit, -torch.inf), dim=1)
    if name == "bpr_max":
        return _bpr_max(positive, scores, weight)
    better = torch.sigmoid(scores - positive[:, None]) + torch.sigmoid(scores**2)
    return better.masked_fill(hit, 0.0).sum(1).div((~hit).sum(1).clamp(min=1)).mean()


def softmax_loss(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all codes, without ever holding all scores.

    Gradients are taken in the forward pass, chunk by chunk, so that each chunk's probabilities
    are used while they are in the cache and then forgotten. Under autocast the products run in
    its precision; sums stay in float32.

    Args:
        hidden: [n, d].
        table: [n_codes, d].
        targets: Codes: [n].
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
            # [d, n_codes]: the other way round, the product would first copy the chances.
            grad_items = torch.zeros(table.T.shape, dtype=torch.float32, device=hidden.device)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            rows = max(1, _CHUNK_SCORES // len(items))
            for begin in range(0, len(states), rows):
                chunk = slice(begin, begin + rows)
                chances = torch.softmax(states[chunk] @ items.T, dim=1)
                wanted = torch.arange(len(chances), device=hidden.device), targets[chunk]
                of_target = chances[wanted]
                # bfloat16 has float32's exponents: a chance is 0 only where float32's would be.
                total -= of_target.float().clamp(min=1e-37).log().sum()
                chances[wanted] = of_target - 1
                torch.matmul(chances, items, out=grad_states[chunk])
                grad_items += states[chunk].T @ chances
        scale = 1 / max(1, len(states))
        ctx.save_for_backward(
            grad_states.mul_(scale).to(hidden.dtype), grad_items.T.mul(scale).to(table.dtype)
        )
        return total * scale

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_items = ctx.saved_tensors
        return grad_states * upstream[0], grad_items * upstream[0], None


def _bpr_max(positive: Tensor, scores: Tensor, weight: Tensor) -> Tensor:
    """Equation 10 of the paper, with its penalty of 1 on the negatives' squared scores."""
    gains = logsigmoid(positive[:, None] - scores)
    ranking = -torch.logsumexp(gains + weight.clamp(min=1e-30).log(), dim=1)
    return (ranking + (weight * scores**2).sum(1)).mean()
