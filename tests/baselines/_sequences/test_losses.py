"""Losses against their definitions, computed the plain way."""

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
def test_the_chunked_softmax_is_cross_entropy_with_its_gradients(
    problem, monkeypatch, chunk_scores
):
    monkeypatch.setattr("mllm_msr.baselines._sequences.losses._CHUNK_SCORES", chunk_scores)
    hidden, table, targets = problem
    ours, plain = softmax_loss(hidden, table, targets), cross_entropy(hidden @ table.T, targets)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)
    for found, wanted in zip(
        gradients(2 * ours, hidden, table), gradients(2 * plain, hidden, table), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-6)


def test_under_autocast_the_softmax_stays_close_and_gives_gradients_of_the_weights_type(problem):
    hidden, table, targets = problem
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax_loss(hidden, table, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(cross_entropy(hidden @ table.T, targets).item(), rel=0.02)
    assert [g.dtype for g in gradients(loss, hidden, table)] == [torch.float32] * 2


def test_sampling_every_item_once_is_the_full_softmax(problem):
    hidden, table, targets = problem
    even = torch.zeros(len(table))
    sampled = next_item_loss(
        hidden,
        table,
        targets=targets,
        negatives=torch.arange(len(table)),
        log_chance=even,
        name="sampled_softmax",
    )
    assert sampled.item() == pytest.approx(softmax_loss(hidden, table, targets).item(), rel=1e-5)


def test_the_correction_makes_sampling_by_popularity_unbiased(problem):
    hidden, table, targets = problem
    chance = torch.arange(1.0, 12.0).softmax(0) * 0.5 + 0.5 / 11
    negatives = torch.multinomial(
        chance, 200_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    sampled = next_item_loss(
        hidden,
        table,
        targets=targets,
        negatives=negatives,
        log_chance=(chance * len(negatives)).log(),
        name="sampled_softmax",
    )
    scores = (hidden @ table.T).detach()
    positive = scores.gather(1, targets[:, None])[:, 0] - (chance * len(negatives)).log()[targets]
    others = scores.exp().scatter(1, targets[:, None], 0.0).sum(1)
    wanted = ((positive.exp() + others).log() - positive).mean()
    assert sampled.item() == pytest.approx(wanted.item(), rel=0.02)


def test_bce_is_one_positive_against_one_negative(problem):
    hidden, table, targets = problem
    negatives = torch.tensor([1, 2, 4, 5, 6, 7, 8])
    found = next_item_loss(hidden, table, targets=targets, negatives=negatives, name="bce")
    positive = torch.sigmoid((hidden * table[targets]).sum(1))
    negative = torch.sigmoid((hidden * table[negatives]).sum(1))
    wanted = -(positive.log() + (1 - negative).log()).mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["bpr_max", "top1"])
def test_ranking_losses_follow_their_papers(problem, name):
    hidden, table, targets = problem
    negatives = torch.tensor([2, 4, 6])  # no target among them
    found = next_item_loss(hidden, table, targets=targets, negatives=negatives, name=name)
    positive = (hidden * table[targets]).sum(1, keepdim=True)
    scores = hidden @ table[negatives].T
    if name == "top1":
        wanted = (torch.sigmoid(scores - positive) + torch.sigmoid(scores**2)).mean(1)
    else:
        weight = scores.softmax(1)
        wanted = -(weight * torch.sigmoid(positive - scores)).sum(1).log()
        wanted = wanted + (weight * scores**2).sum(1)
    assert found.item() == pytest.approx(wanted.mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["sampled_softmax", "bpr_max", "top1"])
def test_a_target_among_the_negatives_does_not_count(problem, name):
    hidden, table, targets = problem
    settings = {"log_chance": torch.zeros(len(table)), "name": name}
    alone = next_item_loss(
        hidden[:1], table, targets=targets[:1], negatives=torch.tensor([2, 4]), **settings
    )
    with_target = next_item_loss(
        hidden[:1], table, targets=targets[:1], negatives=torch.tensor([2, 0, 4]), **settings
    )
    assert with_target.item() == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_it_is_followed(problem, name):
    hidden, table, targets = problem
    negatives = torch.tensor([2, 4, 6, 7, 8, 2, 4])
    chance = torch.zeros(len(table))

    def loss(states):
        return next_item_loss(
            states, table, targets=targets, negatives=negatives, log_chance=chance, name=name
        )

    before = loss(hidden)
    after = loss(hidden - 0.05 * gradients(before, hidden)[0])
    assert after < before


def test_a_loss_without_the_negatives_that_it_needs_is_refused(problem):
    hidden, table, targets = problem
    with pytest.raises(ValueError, match="'bce' needs negatives"):
        next_item_loss(hidden, table, targets=targets, name="bce")
