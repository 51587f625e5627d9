"""Training module: targets, classification of covers, and the effect of images."""

import dataclasses

import numpy as np
import pytest
import torch

from mllm_msr.demo_model.world import IMAGE_SLOTS
from recipes.demo_model.batches import label_batch


@pytest.fixture
def run(tiny_run, tmp_path):
    return tiny_run(tmp_path)


def probe_of(run, family):
    return next(batch for batch in run.probes if batch.family == family)


def test_text_targets_are_the_masked_tokens(run):
    batch = probe_of(run, "fusion")
    loss, predicted, targets = run.learner(batch)
    assert torch.isfinite(loss)
    assert predicted.shape == targets.shape
    assert torch.equal(targets, batch.input_ids[batch.loss_mask])


def test_covers_without_text_are_classified(run):
    batch = label_batch(run.pool, np.arange(5), rng=None)
    loss, predicted, targets = run.learner(batch)
    assert torch.isfinite(loss)
    assert predicted.shape == (5, len(IMAGE_SLOTS))
    assert torch.equal(targets, batch.codes[:, list(IMAGE_SLOTS)])


def test_covers_change_the_loss_of_image_prompts(run):
    batch = probe_of(run, "image_description")
    black = dataclasses.replace(batch, pixels=torch.full_like(batch.pixels, -1.0))
    assert run.learner(batch)[0] != run.learner(black)[0]


def test_covers_need_codes(run):
    batch = dataclasses.replace(probe_of(run, "image_description"), codes=None)
    with pytest.raises(ValueError, match="codes"):
        run.learner(batch)
