"""The network of `trans2d.py`: attention over steps x attributes (Singer et al., WSDM 2022).

An item is one token per attribute: its id and its content in each modality. The candidate's
tokens look at all tokens of the history and at themselves; every linear map has its own weights
for each attribute, and a score mixes what a single (step, attribute) pair, a whole step and a
whole attribute have to say. Histories come one after the other: no map, norm or embedding is
computed for padding; the products alone stand in blocks as long as the longest history.
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

    def forward(self, candidates: Tensor, past: Tensor, lengths: Tensor) -> Tensor:
        """What each candidate's tokens gather.

        Args:
            candidates: [n, m, n_attributes, width].
            past: The histories' tokens, one history after the other: [n_tokens, n_attributes,
                width].
            lengths: int64 [n]; steps of each history, possibly 0.

        Returns:
            [n, m, n_attributes, width].
        """
        queries = self._heads(self.queries(candidates))
        queries = queries / math.sqrt(queries.shape[-1])
        own_keys, own_values = map(self._heads, self.keys_values(candidates).chunk(2, dim=-1))
        keys_values, absent = _side_by_side(self.keys_values(past), lengths)
        keys, values = map(self._heads, keys_values.chunk(2, dim=-1))
        own, scores = self._mixed(queries, keys, own_keys, lengths)
        scores = scores.masked_fill(absent[:, None, None, None, :, None], -math.inf)
        weights = torch.cat([scores, own.unsqueeze(-2)], dim=-2).flatten(-2).softmax(-1)
        weights = weights.to(values.dtype).view(*scores.shape[:-2], -1, scores.shape[-1])
        gathered = torch.einsum("nhmasb,nsbhd->nmahd", weights[..., :-1, :], values)
        gathered = gathered + torch.einsum("nhmab,nmbhd->nmahd", weights[..., -1, :], own_values)
        result: Tensor = self.out(gathered.flatten(-2))
        return result

    def _mixed(
        self, queries: Tensor, keys: Tensor, own_keys: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The three levels' mixture, before the softmax.

        n, m: a history and a candidate; h: the head; a: the query's attribute; s: a step; b: the
        key's attribute; d: the rest. A mean of products is a product of means: no level is taken
        from all products again.

        Args:
            queries: [n, m, a, h, d].
            keys: [n, s, b, h, d], zero where a history has ended.
            own_keys: [n, m, b, h, d].
            lengths: int64 [n].

        Returns:
            Of the candidate's own tokens [n, h, m, a, b], and of the history's
            [n, h, m, a, s, b].
        """
        pair, step, attribute = self.mixture.softmax(-1).T[..., None]
        n_steps = (lengths + 1)[:, None, None, None]
        own = torch.einsum("nmahd,nmbhd->nhmab", queries, own_keys).float()
        mean_keys = keys.sum(1) / n_steps
        shared = attribute[..., None, None] * own / n_steps[..., None]
        products = torch.einsum("nmahd,nbhd->nhmab", queries, attribute * mean_keys)
        own = (
            pair[..., None, None] * own
            + step[..., None, None] * own.mean((-2, -1), keepdim=True)
            + shared
            + products
        )
        mixed_keys = pair * keys + attribute * mean_keys[:, None]
        whole_steps = (step * keys.mean(2, keepdim=True)).expand_as(keys)
        scores = torch.einsum(
            "nmahd,nsbhd->nhmasb",
            torch.cat([queries, queries.mean(2, keepdim=True).expand_as(queries)], dim=-1),
            torch.cat([mixed_keys, whole_steps], dim=-1),
        )
        return own, scores.float() + shared[..., None, :]

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], self.n_heads, tokens.shape[-1] // self.n_heads)


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

    def forward(self, items: Tensor, lengths: Tensor, candidates: Tensor, table: Tensor) -> Tensor:
        """How likely each candidate comes next, as logits.

        Args:
            items: int64 [n_tokens]; item codes of the histories, one after the other, oldest
                item first.
            lengths: int64 [n]; items of each history, possibly 0.
            candidates: int64 [n, m]; item codes.
            table: What `token_table` gives.

        Returns:
            [n, m].
        """
        ends = lengths.cumsum(0).repeat_interleave(lengths)
        back = ends - torch.arange(len(items), device=items.device)
        past = self._tokens(items, back, table)
        tokens = self._tokens(candidates, torch.zeros_like(candidates), table)
        states = self.second_norm(tokens + self.dropout(self.attention(tokens, past, lengths)))
        wide = functional.gelu(self.widen(states))
        states = self.last_norm(states + self.dropout(self.narrow(wide)))
        logits: Tensor = self.logit(states.mean(-2)).squeeze(-1)
        return logits

    def _tokens(self, items: Tensor, back: Tensor, table: Tensor) -> Tensor:
        """Items so many steps before the candidate: [..., n_attributes, width]."""
        shape = (*items.shape, *table.shape[1:])
        kinds = functional.embedding(items, table.flatten(1)).view(shape)
        places = functional.embedding(back, self.steps.flatten(1)).view(shape)
        tokens: Tensor = self.dropout(self.first_norm(kinds + places))
        return tokens


def _side_by_side(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Histories that lie one after the other, side by side.

    Args:
        tokens: [n_tokens, ...].
        lengths: int64 [n].

    Returns:
        [n, longest, ...], zero where a history has ended, and bool [n, longest]: where it has.
    """
    longest = int(lengths.max())
    absent = torch.arange(longest, device=lengths.device) >= lengths[:, None]
    block = tokens.new_zeros(absent.numel(), *tokens.shape[1:])
    block = block.index_copy(0, (~absent).flatten().nonzero().squeeze(1), tokens)
    return block.view(*absent.shape, *tokens.shape[1:]), absent
