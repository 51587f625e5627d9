"""Losses of next-item prediction against direct implementations of their definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from mllm_msr.baselines._sequences.losses import LOSSES, next_item_loss, softmax_loss


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 4, generator=generator, requires_grad=True)
    table = torch.randn(11, 4, generator=generator, requires_grad=True)
    return hidden, table, torch.tensor([0, 10, 3, 3, 5, 1, 9])


def gradients(loss, *weights):
    return torch.autograd.grad(loss, weights)


@pytest.mark.parametrize("chunk_scores", [1, 25, 10_000])
def test_the_chunked_softmax_equals_cross_entropy_and_its_gradients(
    problem, monkeypatch, chunk_scores
):
    monkeypatch.setattr("mllm_msr.baselines._sequences.losses._CHUNK_SCORES", chunk_scores)
    hidden, table, targets = problem
    ours, plain = softmax_loss(hidden, table, targets), cross_entropy(hidden @ table.T, targets)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    for found, expected in zip(
        gradients(2 * ours, hidden, table), gradients(2 * plain, hidden, table), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-6)


def test_under_autocast_the_softmax_is_accurate_and_gradients_are_float32(problem):
    hidden, table, targets = problem
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_loss(hidden, table, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cross_entropy(hidden @ table.T, targets).item(), rel=0.02)
    assert [g.dtype for g in gradients(loss, hidden, table)] == [torch.float32] * 2


def test_sampling_every_item_once_equals_the_full_softmax(problem):
    hidden, table, targets = problem
    uniform = torch.zeros(len(table))
    sampled = next_item_loss(
        hidden,
        table,
        targets=targets,
        negatives=torch.arange(len(table)),
        log_probability=uniform,
        name="sampled_softmax",
    )
    assert sampled.item() == pytest.approx(softmax_loss(hidden, table, targets).item(), rel=1e-5)


def test_the_correction_makes_sampling_by_popularity_unbiased(problem):
    hidden, table, targets = problem
    probability = torch.arange(1.0, 12.0).softmax(0) * 0.5 + 0.5 / 11
    negatives = torch.multinomial(
        probability, 200_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    log_expected_count = (probability * len(negatives)).log()
    sampled = next_item_loss(
        hidden,
        table,
        targets=targets,
        negatives=negatives,
        log_probability=log_expected_count,
        name="sampled_softmax",
    )
    scores = (hidden @ table.T).detach()
    positive = scores.gather(1, targets[:, None])[:, 0] - log_expected_count[targets]
    others = scores.exp().scatter(1, targets[:, None], 0.0).sum(1)
    expected = ((positive.exp() + others).log() - positive).mean()
    assert sampled.item() == pytest.approx(expected.item(), rel=0.02)


def test_bce_compares_one_positive_with_one_negative(problem):
    hidden, table, targets = problem
    negatives = torch.tensor([1, 2, 4, 5, 6, 7, 8])
    found = next_item_loss(hidden, table, targets=targets, negatives=negatives, name="bce")
    positive = torch.sigmoid((hidden * table[targets]).sum(1))
    negative = torch.sigmoid((hidden * table[negatives]).sum(1))
    expected = -(positive.log() + (1 - negative).log()).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["bpr_max", "top1"])
def test_ranking_losses_equal_the_equations_of_their_papers(problem, name):
    hidden, table, targets = problem
    negatives = torch.tensor([2, 4, 6])  # no target among them
    found = next_item_loss(hidden, table, targets=targets, negatives=negatives, name=name)
    positive = (hidden * table[targets]).sum(1, keepdim=True)
    scores = hidden @ table[negatives].T
    if name == "top1":
        expected = (torch.sigmoid(scores - positive) + torch.sigmoid(scores**2)).mean(1)
    else:
        weight = scores.softmax(1)
        expected = -(weight * torch.sigmoid(positive - scores)).sum(1).log()
        expected = expected + (weight * scores**2).sum(1)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["sampled_softmax", "bpr_max", "top1"])
def test_a_target_among_the_negatives_is_ignored(problem, name):
    hidden, table, targets = problem
    settings = {"log_probability": torch.zeros(len(table)), "name": name}
    without_target = next_item_loss(
        hidden[:1], table, targets=targets[:1], negatives=torch.tensor([2, 4]), **settings
    )
    with_target = next_item_loss(
        hidden[:1], table, targets=targets[:1], negatives=torch.tensor([2, 0, 4]), **settings
    )
    assert with_target.item() == pytest.approx(without_target.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_decreases_along_its_gradient(problem, name):
    hidden, table, targets = problem
    negatives = torch.tensor([2, 4, 6, 7, 8, 2, 4])
    uniform = torch.zeros(len(table))

    def loss(states):
        return next_item_loss(
            states, table, targets=targets, negatives=negatives, log_probability=uniform, name=name
        )

    before = loss(hidden)
    after = loss(hidden - 0.05 * gradients(before, hidden)[0])
    assert after < before


@pytest.mark.parametrize(
    ("name", "negatives", "missing"),
    [("bce", None, "negatives"), ("sampled_softmax", torch.tensor([1]), "log_probability")],
)
def test_missing_arguments_are_reported(problem, name, negatives, missing):
    hidden, table, targets = problem
    with pytest.raises(ValueError, match=f"The loss '{name}' needs {missing}"):
        next_item_loss(hidden, table, targets=targets, negatives=negatives, name=name)
