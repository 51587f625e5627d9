"""Training module: the model, auxiliary classifiers of covers, and the loss of a batch."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mllm_msr.demo_model.world import IMAGE_SLOTS, SLOTS
from recipes.demo_model.batches import Batch

# Weight of the classification loss in batches with covers and text.
_CLASSIFICATION_WEIGHT: Final = 0.3


class Learner(nn.Module):
    """Model with auxiliary classification heads on its vision tower; they are not exported.

    Args:
        model: A LLaVA model made by `architecture.make_model`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        width = model.config.vision_config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, len(SLOTS[i].values)) for i in IMAGE_SLOTS)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss, predictions and targets of a batch.

        Returns:
            Scalar loss; predicted ids and target ids, [positions] for text and [images, slots]
            for covers without text.
        """
        if batch.input_ids.numel() == 0:
            return self._classify(self._encode_images(batch.pixels), batch.codes)
        body = self.model.model
        embeddings = body.language_model.embed_tokens(batch.input_ids)  # [batch, length, width]
        classification_loss = embeddings.new_zeros(())
        if batch.pixels is not None:
            patches = self._encode_images(batch.pixels)
            features = body.multi_modal_projector(patches)
            classification_loss, _, _ = self._classify(patches, batch.codes)
            is_image = batch.input_ids == self.model.config.image_token_index
            embeddings = embeddings.clone()
            embeddings[is_image] = features.reshape(-1, features.shape[-1]).to(embeddings.dtype)
        # Padding is to the right of all targets, so the causal mask is sufficient.
        hidden = body.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        mask = batch.loss_mask[:, 1:]
        targets = batch.input_ids[:, 1:][mask]
        logits = self.model.lm_head(hidden[:, :-1][mask]).float()  # [positions, vocabulary]
        loss = functional.cross_entropy(logits, targets)
        loss = loss + _CLASSIFICATION_WEIGHT * classification_loss
        return loss, logits.argmax(-1), targets

    def _encode_images(self, pixels: Tensor | None) -> Tensor:
        """Encode images as patch features."""
        tower = self.model.model.vision_tower
        hidden: Tensor = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
        return hidden  # [images, patches, width]

    def _classify(self, hidden: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Classify the image slots; return the loss, predictions and targets [images, slots]."""
        if codes is None:
            raise ValueError("A batch with covers needs the codes of their slot values.")
        pooled = self.norm(hidden).mean(dim=1)
        logits = [head(pooled).float() for head in self.heads]
        targets = codes[:, list(IMAGE_SLOTS)]
        losses = [functional.cross_entropy(row, targets[:, i]) for i, row in enumerate(logits)]
        predicted = torch.stack([row.argmax(-1) for row in logits], dim=1)
        return torch.stack(losses).mean(), predicted, targets
