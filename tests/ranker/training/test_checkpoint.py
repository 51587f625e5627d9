from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllm_msr.errors import NonFiniteLossError
from mllm_msr.ranker.training.checkpoint import (
    Progress,
    TrainingState,
    draft_folder,
    load_newest,
    save_state,
)


def state(step: int, **facts: object) -> TrainingState:
    tensors = {"model.a": torch.arange(6.0).reshape(2, 3) * step, "best.a": torch.ones(2, 3)}
    return TrainingState(step, tensors, facts)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    progress = Progress(step=4, best=0.75, best_step=2, waited=1, seconds=1.5)
    save_state(tmp_path, state(4, seed=1, **progress.facts()))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.step == 4
    assert loaded.facts["seed"] == 1
    assert torch.equal(loaded.part("model.")["a"], state(4).tensors["model.a"])
    restored = Progress.of(loaded)
    assert torch.equal(restored.best_weights.pop("a"), torch.ones(2, 3))
    assert restored == progress


def test_nothing_saved_is_the_beginning(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert Progress.of(None) == Progress()


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_state(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002", "state-00000010"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no_json", "torn_json"])
def test_a_damaged_newest_state_is_passed_over(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, state(1))
    newest = save_state(tmp_path, state(2))
    tensors, facts = newest / "tensors.safetensors", newest / "state.json"
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(content[:-4])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "no_json":
        facts.unlink()
    else:
        facts.write_text(facts.read_text()[:10])
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.step == 1


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    bad = TrainingState(3, {"model.a": torch.tensor([1.0, float("nan")])}, {})
    with pytest.raises(NonFiniteLossError, match=r"step 3, received NaN or infinity in model\.a"):
        save_state(tmp_path, bad)
    assert not list(tmp_path.iterdir())


def test_weights_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    shared = torch.ones(3)
    save_state(tmp_path, TrainingState(1, {"model.a": shared, "best.a": shared.view(3)}, {}))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.tensors["model.a"], loaded.tensors["best.a"])


def test_a_folder_that_fails_halfway_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "adapter"
    with draft_folder(final) as draft:
        (draft / "weights").write_text("old")

    def fail() -> None:
        with draft_folder(final) as draft:
            (draft / "weights").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (final / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
