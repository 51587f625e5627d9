"""Network of Trans2D: attention over steps and attributes (Singer et al., WSDM 2022).

An item has one token per attribute: its id and its content in each modality. The candidate's
tokens attend to all tokens of the history and to themselves. Every linear map has separate weights
for each attribute, and an attention score mixes the scores of a single (step, attribute) pair, of
a whole step and of a whole attribute. Histories are concatenated, so no map, norm or embedding is
computed for padding; only the attention itself runs on padded blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear2d(nn.Module):
    """Linear map with separate weights for each attribute.

    Args:
        n_attributes: Attributes of an item.
        n_in: Input size of a token.
        n_out: Output size of a token.
    """

    def __init__(self, n_attributes: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_attributes, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_attributes, n_out))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [..., n_attributes, n_in] to [..., n_attributes, n_out]."""
        return torch.einsum("...ai,aio->...ao", tokens, self.weight) + self.bias


class Attention2d(nn.Module):
    """Attention of the candidates' tokens to the tokens of the history and to their own.

    Args:
        n_attributes: Attributes of an item.
        width: Size of a token.
        n_heads: Attention heads; must divide `width`.
    """

    def __init__(self, n_attributes: int, width: int, *, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.queries = Linear2d(n_attributes, width, width)
        self.keys_values = Linear2d(n_attributes, width, 2 * width)
        self.out = Linear2d(n_attributes, width, width)
        # Logits of the weights of pair, step and attribute scores; equal at first.
        self.mixture = nn.Parameter(torch.zeros(n_heads, 3))

    def forward(self, candidates: Tensor, past: Tensor, lengths: Tensor) -> Tensor:
        """Compute the attention output of each candidate's tokens.

        Args:
            candidates: [n, m, n_attributes, width].
            past: Tokens of the concatenated histories, [n_tokens, n_attributes, width].
            lengths: int64 [n]; steps of each history, possibly 0.

        Returns:
            Shape [n, m, n_attributes, width].
        """
        queries = self._split_heads(self.queries(candidates))
        queries = queries / math.sqrt(queries.shape[-1])
        own_keys, own_values = map(self._split_heads, self.keys_values(candidates).chunk(2, dim=-1))
        keys_values, is_padding = pad_histories(self.keys_values(past), lengths)
        keys, values = map(self._split_heads, keys_values.chunk(2, dim=-1))
        own, scores = self._mixed_scores(queries, keys, own_keys, lengths)
        scores = scores.masked_fill(is_padding[:, None, None, None, :, None], -math.inf)
        weights = torch.cat([scores, own.unsqueeze(-2)], dim=-2).flatten(-2).softmax(-1)
        weights = weights.to(values.dtype).view(*scores.shape[:-2], -1, scores.shape[-1])
        gathered = torch.einsum("nhmasb,nsbhd->nmahd", weights[..., :-1, :], values)
        gathered = gathered + torch.einsum("nhmab,nmbhd->nmahd", weights[..., -1, :], own_values)
        result: Tensor = self.out(gathered.flatten(-2))
        return result

    def _mixed_scores(
        self, queries: Tensor, keys: Tensor, own_keys: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mix the scores of pairs, steps and attributes, before the softmax.

        A mean of inner products is the inner product with a mean, so the step and attribute
        scores are computed from mean keys instead of from all pair scores.

        Dimensions: n history, m candidate, h head, a attribute of the query, s step, b attribute
        of the key, d size of a head.

        Args:
            queries: [n, m, a, h, d].
            keys: [n, s, b, h, d], zero for padding.
            own_keys: [n, m, b, h, d].
            lengths: int64 [n].

        Returns:
            Scores of the candidate's own tokens, [n, h, m, a, b], and of the tokens of the
            history, [n, h, m, a, s, b].
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

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:-1], self.n_heads, tokens.shape[-1] // self.n_heads)


class Trans2dNetwork(nn.Module):
    """Network that computes the logits of candidates given a history.

    Args:
        features: Content vectors by item code, one tensor [n_codes, d] per modality; buffers that
            are not saved in the state dict.
        width: Size of a token.
        n_heads: Attention heads; must divide `width`.
        max_length: Length of the longest history.
        dropout: Dropout probability of tokens.
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
        for index, table in enumerate(features):
            self.register_buffer(f"features{index}", table, persistent=False)
            self.content.append(nn.Linear(table.shape[1], width))
        n_attributes = 1 + len(features)
        # Steps are counted backward from the candidate, which is at step 0.
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
        """Compute the tokens of all items without their steps, [n_codes, n_attributes, width]."""
        content = [
            project(self.get_buffer(f"features{index}"))
            for index, project in enumerate(self.content)
        ]
        return torch.stack([self.item_ids, *content], dim=1)

    def forward(self, items: Tensor, lengths: Tensor, candidates: Tensor, table: Tensor) -> Tensor:
        """Compute the logit of each candidate being the next item.

        Args:
            items: int64 [n_tokens]; item codes of the concatenated histories, oldest item first.
            lengths: int64 [n]; items of each history, possibly 0.
            candidates: int64 [n, m]; item codes.
            table: Result of `token_table`.

        Returns:
            Shape [n, m].
        """
        ends = lengths.cumsum(0).repeat_interleave(lengths)
        steps_back = ends - torch.arange(len(items), device=items.device)
        past = self._tokens(items, steps_back, table)
        tokens = self._tokens(candidates, torch.zeros_like(candidates), table)
        states = self.second_norm(tokens + self.dropout(self.attention(tokens, past, lengths)))
        wide = functional.gelu(self.widen(states))
        states = self.last_norm(states + self.dropout(self.narrow(wide)))
        logits: Tensor = self.logit(states.mean(-2)).squeeze(-1)
        return logits

    def _tokens(self, items: Tensor, steps_back: Tensor, table: Tensor) -> Tensor:
        """Add step embeddings to the tokens of items, [..., n_attributes, width]."""
        shape = (*items.shape, *table.shape[1:])
        item_tokens = functional.embedding(items, table.flatten(1)).view(shape)
        step_embeddings = functional.embedding(steps_back, self.steps.flatten(1)).view(shape)
        tokens: Tensor = self.dropout(self.first_norm(item_tokens + step_embeddings))
        return tokens


def pad_histories(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Pad concatenated histories to the longest one.

    Args:
        tokens: [n_tokens, ...].
        lengths: int64 [n].

    Returns:
        The padded tokens, [n, longest, ...], with zeros as padding; and a mask that is true at
        padding, bool [n, longest].
    """
    longest = int(lengths.max())
    is_padding = torch.arange(longest, device=lengths.device) >= lengths[:, None]
    block = tokens.new_zeros(is_padding.numel(), *tokens.shape[1:])
    block = block.index_copy(0, (~is_padding).flatten().nonzero().squeeze(1), tokens)
    return block.view(*is_padding.shape, *tokens.shape[1:]), is_padding
