from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mllm_msr.errors import NonFiniteLossError, StaleStageError
from mllm_msr.ranker.training.checkpoint import (
    Progress,
    TrainingState,
    load_matching,
    load_newest,
    replace_folder,
    save_state,
)


def state(step: int, **fingerprint: object) -> TrainingState:
    tensors = {"model.a": torch.arange(6.0).reshape(2, 3) * step, "best.a": torch.ones(2, 3)}
    return TrainingState(step, tensors, fingerprint, progress={})


def test_loaded_state_equals_the_saved_one(tmp_path: Path) -> None:
    progress = Progress(step=4, best=0.75, best_step=2, waited=1, seconds=1.5)
    progress.best_weights = {"a": torch.ones(2, 3)}
    weights = torch.arange(6.0).reshape(2, 3)
    save_state(tmp_path, progress.to_state({"model.a": weights}, {"seed": 1}))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.step == 4
    assert loaded.fingerprint == {"seed": 1}
    assert torch.equal(loaded.part("model.")["a"], weights)
    restored = Progress.from_state(loaded)
    del progress.best_weights["a"]
    assert torch.equal(restored.best_weights.pop("a"), torch.ones(2, 3))
    assert restored == progress


def test_run_without_states_starts_from_scratch(tmp_path: Path) -> None:
    assert load_newest(tmp_path) is None
    assert load_matching(tmp_path, {"seed": 1}) is None
    assert Progress.from_state(None) == Progress()


def test_only_the_state_of_the_same_run_is_loaded(tmp_path: Path) -> None:
    save_state(tmp_path, state(4, seed=1, target=["q", "v"]))
    loaded = load_matching(tmp_path, {"seed": 1, "target": ("q", "v")})
    assert loaded is not None
    assert loaded.step == 4
    with pytest.raises(StaleStageError, match="another run: different rank, seed, target"):
        load_matching(tmp_path, {"rank": 4, "seed": 2})


def test_validation_records_the_best_weights_and_counts_patience() -> None:
    progress = Progress()
    values = [0.5, 0.7, 0.7, 0.6]
    for step, value in enumerate(values, start=1):
        progress.step = step
        weights = torch.tensor([float(step)])
        progress.record_validation(value, lambda w=weights: {"a": w}, patience=2)
    assert (progress.best, progress.best_step, progress.waited) == (0.7, 2, 2)
    assert progress.best_weights == {"a": torch.tensor([2.0])}
    assert progress.stopped_because == "no improvement in 2 validations"


def test_weights_are_read_only_if_the_value_improves() -> None:
    progress = Progress(best=0.9)
    progress.record_validation(0.9, lambda: pytest.fail("read weights"), patience=3)
    assert progress.waited == 1


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_state(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000002", "state-00000010"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no_json", "torn_json", "digit"])
def test_damaged_newest_state_is_skipped(tmp_path: Path, damage: str) -> None:
    save_state(tmp_path, state(1))
    newest = save_state(tmp_path, state(2))
    tensors, content = newest / "tensors.safetensors", newest / "state.json"
    data = bytearray(tensors.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "cut":
        tensors.write_bytes(data[:-4])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "no_json":
        content.unlink()
    elif damage == "digit":
        text = content.read_text()
        assert text.count('"step": 2') == 1
        content.write_text(text.replace('"step": 2', '"step": 3'))
    else:
        content.write_text(content.read_text()[:10])
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert loaded.step == 1


def test_nan_is_never_written(tmp_path: Path) -> None:
    bad = TrainingState(3, {"model.a": torch.tensor([1.0, float("nan")])}, {}, {})
    with pytest.raises(NonFiniteLossError, match=r"model\.a contains NaN or infinity at step 3"):
        save_state(tmp_path, bad)
    assert not list(tmp_path.iterdir())


def test_weights_that_share_memory_are_saved_separately(tmp_path: Path) -> None:
    shared = torch.ones(3)
    save_state(tmp_path, TrainingState(1, {"model.a": shared, "best.a": shared.view(3)}, {}, {}))
    loaded = load_newest(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.tensors["model.a"], loaded.tensors["best.a"])


def test_interrupted_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    final = tmp_path / "adapter"
    with replace_folder(final) as draft:
        (draft / "weights").write_text("old")

    def fail() -> None:
        with replace_folder(final) as draft:
            (draft / "weights").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (final / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
