"""The trainable whole: the packaged model, its cover classifier and the loss of a batch."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS
from recipes.demo_model.batches import Batch

# Weight of the classification of covers in the loss of batches that show covers.
_ASIDE: Final = 0.3


class Learner(nn.Module):
    """The model with classification heads on its vision tower, which are not exported.

    Args:
        model: A LLaVA model of `architecture`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        width = model.config.vision_config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, len(SLOTS[i].values)) for i in IMAGE_SLOTS)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, predictions and truths of a batch.

        Returns:
            Scalar loss; predicted ids and true ids, [positions] for text, [pictures, slots] for
            cover labels.
        """
        if batch.input_ids.numel() == 0:
            return self._labels(self._see(batch.pixels), batch.codes)
        body = self.model.model
        embeddings = body.language_model.embed_tokens(batch.input_ids)  # [batch, length, width]
        aside = embeddings.new_zeros(())
        if batch.pixels is not None:
            patches = self._see(batch.pixels)
            seen = body.multi_modal_projector(patches)
            aside, _, _ = self._labels(patches, batch.codes)
            places = batch.input_ids == self.model.config.image_token_index
            embeddings = embeddings.clone()
            embeddings[places] = seen.reshape(-1, seen.shape[-1]).to(embeddings.dtype)
        # Padding stands to the right of everything that is learnt, so causality is mask enough.
        hidden = body.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        wanted = batch.learn[:, 1:]
        truths = batch.input_ids[:, 1:][wanted]
        logits = self.model.lm_head(hidden[:, :-1][wanted]).float()  # [positions, vocabulary]
        loss = functional.cross_entropy(logits, truths) + _ASIDE * aside
        return loss, logits.argmax(-1), truths

    def _see(self, pixels: Tensor | None) -> Tensor:
        tower = self.model.model.vision_tower
        hidden: Tensor = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        return hidden  # [pictures, patches, width]

    def _labels(self, hidden: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if codes is None:
            raise ValueError("covers need the codes of what they show")
        pooled = self.norm(hidden).mean(dim=1)
        logits = [head(pooled).float() for head in self.heads]
        truths = codes[:, list(IMAGE_SLOTS)]
        losses = [functional.cross_entropy(row, truths[:, i]) for i, row in enumerate(logits)]
        predicted = torch.stack([row.argmax(-1) for row in logits], dim=1)
        return torch.stack(losses).mean(), predicted, truths
