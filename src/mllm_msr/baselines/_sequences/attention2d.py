"""The network of `trans2d.py`: attention over steps x attributes (Singer et al., WSDM 2022).

An item is one token per attribute: its id and its content in each modality. The candidate's
tokens look at all tokens of the history and at themselves; every linear map has its own weights
for each attribute, and a score mixes what a single (step, attribute) pair, a whole step and a
whole attribute have to say. Blocks hold histories of one length: nothing is padded or masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear2d(nn.Module):
    """A linear map of its own for each attribute.

    Args:
        n_attributes: Attributes of an item.
        n_in: Size of a token.
        n_out: Size of what becomes of it.
    """

    def __init__(self, n_attributes: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_attributes, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_attributes, n_out))

    def forward(self, tokens: Tensor) -> Tensor:
        """From [..., n_attributes, n_in] to [..., n_attributes, n_out]."""
        return torch.einsum("...ai,aio->...ao", tokens, self.weight) + self.bias


class Attention2d(nn.Module):
    """Candidates' tokens gather from the history's and from their own.

    Args:
        n_attributes: Attributes of an item.
        width: Size of a token.
        n_heads: Heads; a divisor of the width.
    """

    def __init__(self, n_attributes: int, width: int, *, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.queries = Linear2d(n_attributes, width, width)
        self.keys_values = Linear2d(n_attributes, width, 2 * width)
        self.out = Linear2d(n_attributes, width, width)
        # Pair, step and attribute: equal shares at first.
        self.mixture = nn.Parameter(torch.zeros(n_heads, 3))

    def forward(self, candidates: Tensor, history: Tensor) -> Tensor:
        """What each candidate's tokens gather.

        Args:
            candidates: [n, m, n_attributes, width].
            history: [n, length, n_attributes, width].

        Returns:
            [n, m, n_attributes, width].
        """
        queries = self._heads(self.queries(candidates))
        own_keys, own_values = map(self._heads, self.keys_values(candidates).chunk(2, dim=-1))
        keys, values = map(self._heads, self.keys_values(history).chunk(2, dim=-1))
        # a: the query's attribute; s: a step; b: the key's attribute; h: the head.
        past = torch.einsum("nmahd,nsbhd->nmhasb", queries, keys)
        own = torch.einsum("nmahd,nmbhd->nmhab", queries, own_keys)[..., None, :]
        weights = self._mixed(torch.cat([past, own], dim=-2).float())
        past, own = weights[..., :-1, :], weights[..., -1, :]
        gathered = torch.einsum("nmhasb,nsbhd->nmahd", past.to(values.dtype), values)
        gathered = gathered + torch.einsum("nmhab,nmbhd->nmahd", own.to(values.dtype), own_values)
        result: Tensor = self.out(gathered.flatten(-2))
        return result

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], self.n_heads, tokens.shape[-1] // self.n_heads)

    def _mixed(self, products: Tensor) -> Tensor:
        """Softmax over steps and attributes of the three levels' mixture: [n, m, h, a, s, b]."""
        products = products * math.sqrt(self.n_heads / self.queries.weight.shape[-1])
        shares = self.mixture.softmax(-1)[:, :, None, None, None]
        scores = (
            shares[:, 0] * products
            + shares[:, 1] * products.mean((-3, -1), keepdim=True)
            + shares[:, 2] * products.mean(-2, keepdim=True)
        )
        return scores.flatten(-2).softmax(-1).view_as(scores)


class Trans2dNetwork(nn.Module):
    """From a history and candidates to logits.

    Args:
        features: Content vectors by item code, one tensor [n_codes, d] for each modality; kept
            in the module, not in its state.
        width: Size of a token.
        n_heads: Heads; a divisor of the width.
        max_length: Longest history.
        dropout: Dropout of tokens.
    """

    def __init__(
        self,
        features: Sequence[Tensor],
        *,
        width: int,
        n_heads: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.item_ids = nn.Parameter(0.1 * torch.randn(len(features[0]), width))
        self.content = nn.ModuleList()
        for at, table in enumerate(features):
            self.register_buffer(f"features{at}", table, persistent=False)
            self.content.append(nn.Linear(table.shape[1], width))
        n_attributes = 1 + len(features)
        # Steps count back from the candidate, which stands at 0.
        self.steps = nn.Parameter(0.1 * torch.randn(max_length + 1, n_attributes, width))
        self.first_norm = nn.LayerNorm(width)
        self.attention = Attention2d(n_attributes, width, n_heads=n_heads)
        self.second_norm = nn.LayerNorm(width)
        self.widen = Linear2d(n_attributes, width, 2 * width)
        self.narrow = Linear2d(n_attributes, 2 * width, width)
        self.last_norm = nn.LayerNorm(width)
        self.logit = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)

    def token_table(self) -> Tensor:
        """Tokens of all items before their step is known: [n_codes, n_attributes, width]."""
        content = [
            project(self.get_buffer(f"features{at}")) for at, project in enumerate(self.content)
        ]
        return torch.stack([self.item_ids, *content], dim=1)

    def forward(self, history: Tensor, candidates: Tensor, table: Tensor) -> Tensor:
        """How likely each candidate comes next, as logits.

        Args:
            history: int64 [n, length]; item codes, oldest first, length possibly 0.
            candidates: int64 [n, m]; item codes.
            table: What `token_table` gives.

        Returns:
            [n, m].
        """
        length = history.shape[1]
        past = self.first_norm(table[history] + self.steps[1 : length + 1].flip(0))
        tokens = self.first_norm(table[candidates] + self.steps[0])
        past, tokens = self.dropout(past), self.dropout(tokens)
        states = self.second_norm(tokens + self.dropout(self.attention(tokens, past)))
        wide = functional.gelu(self.widen(states))
        states = self.last_norm(states + self.dropout(self.narrow(wide)))
        logits: Tensor = self.logit(states.mean(-2)).squeeze(-1)
        return logits
