"""Lists of the teacher and the distillation loss, checked by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from mllm_msr.baselines._distillation.lists import StudentBatches, TeacherLists, distillation_loss
from mllm_msr.baselines._sequences.sequence_model import SequenceModel, SequenceNetwork
from mllm_msr.baselines._training.histories import ItemCodes, TrainingBatches, user_histories
from mllm_msr.tables import INTERACTIONS, TEACHER


class Weights(SequenceNetwork):
    """The score of an item is a weight; the history does not matter."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([0.0, *weights]))

    def forward(self, batch):
        return torch.ones(len(batch.items), 1)

    def table(self):
        return self.weights[:, None]


@pytest.fixture
def interactions() -> pl.DataFrame:
    rows = [("u", "a", 0, 0), ("u", "b", 1, 1), ("v", "a", 0, 0), ("v", "c", 1, 1)]
    return pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")


def model(*weights: float) -> SequenceModel:
    return SequenceModel(
        Weights(*weights),
        ItemCodes(("a", "b", "c")),
        n_warm=3,
        catalog=("a", "b", "c"),
        counts=torch.ones(4),
        max_length=5,
    )


def lists(interactions, *rows: tuple[str, int, str, float | None]) -> TeacherLists:
    table = pl.DataFrame(rows, schema=dict(TEACHER), orient="row")
    return TeacherLists.from_table(table, model(0.0, 0.0, 0.0), interactions)


def test_a_list_has_the_history_and_the_distribution_of_the_teacher(interactions):
    found = lists(interactions, ("u", 1, "b", 0.8), ("u", 1, "c", 0.2))
    assert len(found) == 1
    assert found.histories[0].tolist() == [1]
    assert found.codes.tolist() == [[2, 3]]
    # The ratio of the odds 4 and 1/4.
    assert found.probabilities[0].tolist() == pytest.approx([16 / 17, 1 / 17])


def test_a_teacher_that_orders_nothing_has_no_confidence(interactions):
    rows = [("u", 1, "b", 0.5), ("u", 1, "c", 0.5), ("v", 1, "b", 1.0), ("v", 1, "c", 0.0)]
    assert lists(interactions, *rows).weights.tolist() == pytest.approx([0.0, 1.0], abs=1e-4)


def test_pairs_without_a_score_and_lists_of_one_item_are_left_out(interactions):
    rows = [("u", 2, "a", 0.3), ("u", 2, "c", None), ("v", 2, "b", 0.5)]
    assert len(lists(interactions, *rows)) == 0


def test_shorter_lists_are_padded(interactions):
    rows = [(user, 2, item, 0.5) for user, items in (("u", "abc"), ("v", "ab")) for item in items]
    found = lists(interactions, *rows)
    assert found.codes.tolist() == [[1, 2, 3], [1, 2, 0]]
    assert found.probabilities[1].tolist() == pytest.approx([0.5, 0.5, 0])


def test_a_scored_pair_counts_as_much_as_an_interaction(interactions):
    rows = [(user, 2, item, 0.5) for user, items in (("u", "abc"), ("v", "ab")) for item in items]
    found = lists(interactions, *rows)
    assert found.share(20) == 5 / 20
    assert found.share(4) == 1


def test_lists_after_a_hidden_interaction_and_without_a_history_are_left_out(interactions):
    rows = [("u", at, item, 0.5) for at in (0, 2, 3) for item in "ac"]
    found = lists(interactions, *rows)
    assert [history.tolist() for history in map(found.histories.__getitem__, range(1))] == [[1, 2]]
    assert len(found) == 1


def test_the_loss_is_the_weighted_divergence(interactions):
    found = lists(interactions, ("u", 1, "b", 0.8), ("u", 1, "c", 0.2))
    batch = found.batch(torch.tensor([0]).numpy())
    network = Weights(0.0, 1.0, 0.5)
    teacher = [16 / 17, 1 / 17]
    student = [math.exp(1) / (math.exp(1) + math.exp(0.5))]
    student.append(1 - student[0])
    divergence = sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))
    confidence = 1 + sum(p * math.log2(p) for p in teacher)
    loss = distillation_loss(network, batch)
    assert loss.item() == pytest.approx(confidence * divergence, rel=1e-4)
    loss.backward()
    # Items outside the list, and the padding, are not moved.
    assert network.weights.grad[:2].tolist() == [0, 0]
    assert network.weights.grad[2] < 0 < network.weights.grad[3]


def test_the_loss_vanishes_for_the_order_of_the_teacher(interactions):
    rows = [("u", 1, "b", 0.8), ("u", 1, "c", 0.2), ("v", 2, "a", 0.4), ("v", 2, "b", 0.4)]
    batch = lists(interactions, *rows).batch(torch.arange(2).numpy())
    log_odds = math.log(4)
    assert distillation_loss(Weights(9.0, log_odds, -log_odds), batch).item() == pytest.approx(
        0, abs=1e-5
    )


def test_every_list_occurs_in_an_epoch_and_every_batch_has_one(interactions):
    rows = [(user, 2, item, 0.5) for user in "uv" for item in "abc"]
    found = lists(interactions, *rows)
    _, histories = user_histories(interactions, ItemCodes(("a", "b", "c")))
    for n_batches, expected in ((1, [2]), (2, [1, 1])):
        batches = StudentBatches.shuffled(
            TrainingBatches.shuffled(histories, batch_size=2 // n_batches, seed=0, epoch=0),
            found, seed=0, epoch=0,
        )  # fmt: skip
        assert len(batches) == n_batches
        assert [len(batches[at].lists.codes) for at in range(n_batches)] == expected
        read = torch.cat([batches[at].lists.histories.rows for at in range(n_batches)])
        assert sorted(read.tolist()) == [0, 1]
    again = StudentBatches.shuffled(
        TrainingBatches.shuffled(histories, batch_size=1, seed=0, epoch=0), found, seed=0, epoch=0
    )
    assert again[0].lists.histories.rows.equal(batches[0].lists.histories.rows)


def test_the_digest_depends_on_the_scores(interactions):
    digests = {
        lists(interactions, ("u", 1, "b", score), ("u", 1, "c", 0.2)).digest()
        for score in (0.8, 0.8, 0.7)
    }
    assert len(digests) == 2
