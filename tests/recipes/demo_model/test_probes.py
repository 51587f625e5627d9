"""Probes: accuracy per slot on fixed examples."""

import torch

from recipes.demo_model.probes import probe, probe_batches


class Oracle(torch.nn.Module):
    """Learner that predicts every target except those of one family."""

    def forward(self, batch):
        targets = batch.codes[:, 2:] if batch.input_ids.numel() == 0 else (
            batch.input_ids[:, 1:][batch.loss_mask[:, 1:]]
        )  # fmt: skip
        predicted = torch.zeros_like(targets) if batch.family == "fusion" else targets
        return torch.tensor(0.0), predicted, targets


def test_accuracy_is_reported_per_slot(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    found = probe(Oracle(), run.probes, run.tokenizer)
    assert found["image_description/object"] == 1.0
    assert found["comparison/yes_no"] == 1.0
    assert found["fusion/mood"] == 0.0


def test_probes_are_deterministic(tiny_run, tmp_path):
    run = tiny_run(tmp_path)
    again = probe_batches(run.pool, run.tokenizer, n_examples=4)
    assert all(
        torch.equal(a.input_ids, b.input_ids)
        for a, b in zip(again, probe_batches(run.pool, run.tokenizer, n_examples=4), strict=True)
    )
