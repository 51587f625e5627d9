"""Soft tokens: vectors of a collaborative model as tokens of a prompt.

A `VectorPart` of a prompt is one token, whose embedding a small projector computes from the part's
vectors. The projector is trained together with the model's own weights (`recommend.collaborative`)
and saved beside them. In the spirit of CoLLM (Zhang et al. 2023) and LLaRA (Liao et al. 2024).

The id of such a token is a hash of its vectors, above all ids of the vocabulary. Equal ids mean
equal tokens, so everything that compares token ids, such as prefix sharing, works as with text.
"""

from __future__ import annotations

import array
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from cachetools import LRUCache
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mllm_msr.errors import BackendError, first_line
from mllm_msr.types import VectorKind, VectorPart

FILE: Final = "vector_projector.safetensors"
# Ids of soft tokens are at least this; tokens of a vocabulary have smaller ones.
FIRST_ID: Final = 2**60

_NAME: Final = "vector_projector"
_KINDS: Final[tuple[VectorKind, ...]] = ("user", "item", "match")
_HIDDEN: Final = 256
_SCORE_WEIGHT: Final = 4.0
# Vectors that prompts may refer to. A batch has far fewer.
_MAX_PARTS: Final = 2**17
# Tokens from which the scale of embeddings is measured.
_N_SCALE_TOKENS: Final = 1024


class VectorProjector(nn.Module):
    """Projector from the vectors of users and items to token embeddings.

    Each kind of token has a network with one hidden layer, and a learned embedding for users and
    items without a vector. The network of a match gets the products of both vectors and their sum.

    Args:
        n_dims: Size d of the vector of a user. That of an item has one number more.
        width: Size of a token embedding.
        scale: Standard deviation of token embeddings.

    Attributes:
        n_dims: As given.
    """

    scale: Tensor

    def __init__(self, n_dims: int, width: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.n_dims = n_dims
        self.networks = nn.ModuleDict(
            {
                kind: nn.Sequential(
                    nn.Linear(n_dims + (kind != "user"), _HIDDEN),
                    nn.GELU(),
                    nn.Linear(_HIDDEN, width),
                )
                for kind in _KINDS
            }
        )
        self.unknown = nn.ParameterDict({kind: nn.Parameter(torch.randn(width)) for kind in _KINDS})
        self.register_buffer("scale", torch.tensor(scale))
        self._parts: LRUCache[int, VectorPart] = LRUCache(_MAX_PARTS)
        for network in self.networks.values():
            last: Any = network[-1]  # type: ignore[index]
            # Outputs begin with a standard deviation of about one, as the unknown embeddings do.
            nn.init.normal_(last.weight, std=2.5 / math.sqrt(_HIDDEN))

    def hold(self, parts: Iterable[VectorPart]) -> None:
        """Store the vectors of a batch, to which its token ids refer."""
        for part in parts:
            self._parts[soft_token_id(part)] = part

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of soft tokens that `hold` has stored: [n, width].

        Args:
            ids: Ids of soft tokens: [n].
        """
        parts = [self._parts[number] for number in ids.tolist()]
        rows: list[int] = []
        embeddings: list[Tensor] = []
        for kind in _KINDS:
            found = [row for row, part in enumerate(parts) if part.kind == kind]
            if found:
                rows += found
                embeddings.append(self(kind, [parts[row] for row in found]))
        order = torch.tensor(rows, device=ids.device).argsort()
        return torch.cat(embeddings)[order]

    def forward(self, kind: VectorKind, parts: Sequence[VectorPart]) -> Tensor:
        """Return the embeddings of parts of one kind: [n, width]."""
        unknown = self.unknown[kind]
        rows = [self._features(kind, part) for part in parts]
        features = torch.tensor(rows, dtype=unknown.dtype, device=unknown.device)
        is_known = torch.tensor([bool(part.vectors) for part in parts], device=unknown.device)
        # Both sides are computed for all parts, so that every weight always has a gradient.
        projected = self.networks[kind](features).to(unknown.dtype)
        return self.scale * torch.where(is_known.unsqueeze(1), projected, unknown)

    def _features(self, kind: VectorKind, part: VectorPart) -> Sequence[float]:
        """Return the inputs of the network of a kind."""
        if not part.vectors:
            return [0.0] * (self.n_dims + (kind != "user"))
        if kind != "match":
            return part.vectors[0]
        user, item = part.vectors
        products = [a * b for a, b in zip(user, item, strict=False)]
        # The score in standard deviations, about as large as all products together.
        return [*products, _SCORE_WEIGHT * sum(products) / math.sqrt(self.n_dims)]


def soft_token_id(part: VectorPart) -> int:
    """Return the id of a soft token, a hash of its kind and its vectors."""
    digest = hashlib.blake2b(part.kind.encode(), digest_size=7)
    for vector in part.vectors:
        digest.update(array.array("d", vector))
    return FIRST_ID + int.from_bytes(digest.digest())


def add_vector_projector(model: Any, *, n_dims: int, seed: int) -> None:
    """Attach a trainable projector to a model: a new one, unless it already has one.

    Args:
        model: A causal language model of Transformers, possibly wrapped by PEFT.
        n_dims: Size of the vector of a user.
        seed: Seed of the initial weights.

    Raises:
        BackendError: The model has a projector for vectors of another size.
    """
    projector = find_vector_projector(model)
    if projector is None:
        layer = model.get_input_embeddings()
        ids = torch.arange(min(_N_SCALE_TOKENS, layer.num_embeddings), device=layer.weight.device)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            embeddings = layer(ids).float()
            scale = float(embeddings.std())
            projector = VectorProjector(n_dims, embeddings.shape[1], scale=scale)
        attach_vector_projector(model, projector)
    elif projector.n_dims != n_dims:
        raise BackendError(
            f"The model was fine-tuned with vectors of {projector.n_dims} numbers, but those of "
            f"recommend.collaborative have {n_dims}. Use the same baseline, or another checkpoint."
        )
    projector.requires_grad_(True)


def attach_vector_projector(model: Any, projector: VectorProjector) -> None:
    """Make a model read soft tokens; the projector becomes a part of its embedding layer.

    Args:
        model: A causal language model of Transformers, possibly wrapped by PEFT.
        projector: Projector to the width of its token embeddings.
    """
    layer = model.get_input_embeddings()
    layer.add_module(_NAME, projector.to(layer.weight.device))
    asked: list[Tensor] = []

    def hide(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        ids = arguments[0]
        return (ids.masked_fill(ids >= FIRST_ID, 0), *arguments[1:])

    def store_and_hide(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        asked[:] = arguments[:1]  # also after a forward pass that failed
        return hide(_, arguments)

    def insert(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        del arguments
        (ids,) = asked
        is_soft = ids >= FIRST_ID  # [batch, length]
        if not bool(is_soft.any()):
            return output
        embeddings = projector.embed(ids[is_soft]).to(output.dtype)
        return output.index_put((is_soft,), embeddings)

    layer.register_forward_pre_hook(store_and_hide)
    layer.register_forward_hook(insert)
    # Some models also have embeddings of the tokens for each layer.
    for other in model.get_decoder().modules():
        if isinstance(other, nn.Embedding) and other is not layer:
            other.register_forward_pre_hook(hide)


def find_vector_projector(model: Any) -> VectorProjector | None:
    """Return the projector that is attached to a model, or None."""
    return getattr(model.get_input_embeddings(), _NAME, None)


@contextmanager
def without_vector_projector(model: Any) -> Iterator[None]:
    """Hide the projector of a model within the block, so that only its own weights are saved."""
    layer, projector = model.get_input_embeddings(), find_vector_projector(model)
    if projector is not None:
        delattr(layer, _NAME)
    try:
        yield
    finally:
        if projector is not None:
            layer.add_module(_NAME, projector)


def save_vector_projector(model: Any, folder: Path) -> None:
    """Write the projector of a model, if it has one, into the folder of the trained weights."""
    projector = find_vector_projector(model)
    if projector is not None:
        state: Mapping[str, Tensor] = projector.state_dict()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / FILE)


def load_vector_projector(model: Any, folder: Path) -> None:
    """Attach the projector in a folder of trained weights to a model, if there is one.

    Raises:
        BackendError: The file cannot be read or does not fit the model.
    """
    file = folder / FILE
    if not file.is_file():
        return
    try:
        state = load_file(file)
        n_dims = state["networks.user.0.weight"].shape[1]
        projector = VectorProjector(n_dims, model.get_input_embeddings().weight.shape[1])
        projector.load_state_dict(state)
    except (OSError, KeyError, RuntimeError, SafetensorError) as cause:
        reason = first_line(cause).rstrip(":.")
        raise BackendError(
            f"{file} is not a projector of vectors for this model: {reason}. Use the weights with "
            "the model that they were fine-tuned from, or fine-tune again."
        ) from cause
    attach_vector_projector(model, projector.eval())
