"""Pre-training: resuming, checkpoints, schedule, optimizers and errors."""

import json

import pytest
import torch

from mllm_msr.demo_model.world import MEASURE_SEEDS
from mllm_msr.errors import NonFiniteLossError, UsageError
from mllm_msr.ranker.training.checkpoint import load_newest
from recipes.demo_model import pretrain
from recipes.demo_model.pretrain import Run, schedule, train


def weights(run):
    return {name: tensor.clone() for name, tensor in run.learner.state_dict().items()}


@pytest.mark.parametrize("start", [0, 1100])
def test_a_resumed_run_equals_an_uninterrupted_run(tiny_run, tmp_path, start):
    uninterrupted = tiny_run(tmp_path / "uninterrupted")
    uninterrupted.n_steps, uninterrupted.step = 2000, start
    for _ in range(4):
        uninterrupted.train_step()
    interrupted = tiny_run(tmp_path / "resumed")
    interrupted.n_steps, interrupted.step = 2000, start
    for _ in range(2):
        interrupted.train_step()
    interrupted.save()
    resumed = tiny_run(tmp_path / "resumed")
    resumed.n_steps = 2000
    resumed.resume()
    assert resumed.step == start + 2
    for _ in range(2):
        resumed.train_step()
    for name, tensor in weights(uninterrupted).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
        assert torch.equal(uninterrupted.average[name], resumed.average[name]), name


def test_a_step_trains_several_families_and_changes_the_weights(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    run.n_steps, run.step = 2000, 1100
    before = weights(run)
    losses, n_tokens = run.train_step()
    assert len(losses) > 1
    assert n_tokens > 0
    changed = [
        name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])
    ]
    assert any("language_model" in name for name in changed)


def test_training_logs_the_accuracy_per_slot(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    train(run, minutes=1, probe_every=10, save_every=10)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert {"cover_labels/object", "fusion/mood", "comparison/yes_no"} <= set(lines[0]["accuracy"])
    assert load_newest(tmp_path / "run").step == 20


def test_only_the_newest_checkpoints_are_kept(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.step = step
        run.save()
    names = sorted(path.name for path in (tmp_path / "run").glob("state-*"))
    assert names == ["state-00000002", "state-00000003"]


def test_an_incomplete_checkpoint_is_ignored(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    run.step = 1
    run.save()
    (tmp_path / "run" / ".state-00000002.draft").mkdir()
    (tmp_path / "run" / "state-00000003").mkdir()
    assert load_newest(tmp_path / "run").step == 1


def test_the_schedule_has_two_phases():
    factors = [schedule(step, n_steps=1200) for step in range(1201)]
    assert factors[0] < 0.1
    assert set(factors[60:600]) == {1.0}
    assert factors[800] == pytest.approx(0.5)
    assert factors[999] < 0.01
    assert factors[1000] == pytest.approx(0.4)
    assert factors[1100] == pytest.approx(0.2)
    assert factors[1200] == 0.0


def test_a_world_seed_is_an_error(tmp_path):
    with pytest.raises(
        UsageError, match=r"500000 is not a pre-training seed\. .*reserved for demo"
    ):
        Run(tmp_path, pool_folder=tmp_path, n_steps=1, seed=MEASURE_SEEDS.start)


def test_a_non_finite_loss_is_an_error(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    with torch.no_grad():
        for parameter in run.learner.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(
        NonFiniteLossError, match=r"loss is nan at step 0\. Resume .* lower learning rate"
    ):
        run.train_step()


def test_optimizers_own_every_parameter_once(tiny_run, tmp_path):
    run = tiny_run(tmp_path / "run")
    owned = [p for o in run.optimizers.values() for g in o.param_groups for p in g["params"]]
    assert len(owned) == len(list(run.learner.parameters()))
    assert pretrain.make_optimizers(run.learner, learning_rate=1.0, matrix_rate=2.0)[1] == {
        "adamw": 1.0,
        "muon": 2.0,
    }
