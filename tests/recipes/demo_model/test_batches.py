"""Batches: determinism, targets, and the curriculum."""

import numpy as np
import torch

from recipes.demo_model.batches import (
    CURRICULUM,
    LABELS,
    REPEATS,
    family_at,
    repeat_batch,
    training_batch,
)
from recipes.demo_model.corpus import FAMILIES


def batch(run, step):
    return training_batch(
        step, seed=run.seed, pool=run.pool, covers=run.covers, tokenizer=run.tokenizer,
        n_tokens=600,
    )  # fmt: skip


def test_a_batch_depends_on_seed_and_step_alone(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    for step in (0, 601, 605, 2000):
        first, second = batch(run, step), batch(run, step)
        assert first.family == second.family
        assert torch.equal(first.input_ids, second.input_ids)
        assert (first.pixels is None) == (second.pixels is None)
        if first.pixels is not None:
            assert torch.equal(first.pixels, second.pixels)


def test_only_answers_are_targets(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    fusion = next(b for b in (batch(run, s) for s in range(600, 700)) if b.family == "fusion")
    assert not fusion.loss_mask[fusion.input_ids == 0].any()
    target = run.tokenizer.decode(fusion.input_ids[0][fusion.loss_mask[0]])
    assert ", showing " in target
    assert target.endswith("<|end|>")
    assert "Join both" not in target


def test_the_curriculum_starts_with_covers_and_ends_with_every_family():
    assert set(CURRICULUM[0][1]) == {LABELS}
    assert "preference_update" not in CURRICULUM[1][1]
    assert set(CURRICULUM[-1][1]) == {LABELS, REPEATS, *FAMILIES}
    drawn = {family_at(step, seed=1_000_000) for step in range(1800, 2400)}
    assert drawn == {LABELS, REPEATS, *FAMILIES}


def test_targets_of_repeats_start_with_the_first_repetition():
    batch = repeat_batch(500, n_tokens=400, rng=np.random.default_rng(0))
    period = int(batch.loss_mask[0].float().argmax())
    assert not batch.loss_mask[:, :period].any()
    assert batch.loss_mask[:, period:].all()
    assert torch.equal(batch.input_ids[:, period:], batch.input_ids[:, :-period])
    assert batch.input_ids.min() >= 5
