"""Tests of training a projector: only the projector changes, and a killed run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mllm_msr.config.align_settings import AlignSettings
from mllm_msr.errors import DataError, StaleStageError
from mllm_msr.ranker.alignment.examples import AlignmentExample, alignment_examples
from mllm_msr.ranker.alignment.trainer import PROJECTOR_FILE, align
from mllm_msr.types import Item

SETTINGS = AlignSettings(
    learning_rate=5e-3, batch_size=3, max_steps=12, epochs=20, checkpoint_every=4
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[[str], Path]) -> str:
    return str(tiny_checkpoint("llava_efficientnet"))


@pytest.fixture
def examples(images: Sequence[Path]) -> list[AlignmentExample]:
    items = [Item(str(n), f"Film {n}", "red blue"[4 * (n % 2) :], path) for n, path in
             enumerate(images[:4])]  # fmt: skip
    return alignment_examples(items, item_type="film", words=40)


@contextmanager
def killed_at(n_steps: int, n_done: int) -> Iterator[Callable[[int], None]]:
    """Stop a training after six steps, as a signal would."""
    done = n_done

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done == 6:
            raise KeyboardInterrupt

    yield advance


def test_the_loss_falls_and_the_result_has_the_names_of_the_projector(
    checkpoint: str, examples: list[AlignmentExample], tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 60})
    summary = align(examples, checkpoint=checkpoint, folder=tmp_path / "a", settings=settings)
    assert (summary.images, summary.examples, summary.steps) == (4, 8, 54)
    assert summary.last_loss < summary.first_loss
    assert [path.name for path in (tmp_path / "a").iterdir()] == [PROJECTOR_FILE]
    weights = load_file(tmp_path / "a" / PROJECTOR_FILE)
    assert set(weights) == {f"linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}


def test_a_killed_training_resumes_to_the_same_weights(
    checkpoint: str, examples: list[AlignmentExample], tmp_path: Path
) -> None:
    whole = align(examples, checkpoint=checkpoint, folder=tmp_path / "a", settings=SETTINGS)
    assert whole.last_loss < whole.first_loss  # of the two halves of few steps
    with pytest.raises(KeyboardInterrupt):
        align(
            examples,
            checkpoint=checkpoint,
            folder=tmp_path / "b",
            settings=SETTINGS,
            show=killed_at,
        )
    other = SETTINGS.model_copy(update={"seed": 1})
    with pytest.raises(StaleStageError, match="different seed"):
        align(examples, checkpoint=checkpoint, folder=tmp_path / "b", settings=other)
    resumed = align(examples, checkpoint=checkpoint, folder=tmp_path / "b", settings=SETTINGS)
    assert (resumed.steps, resumed.last_loss) == (whole.steps, whole.last_loss)
    files = [load_file(tmp_path / name / PROJECTOR_FILE) for name in ("a", "b")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_a_catalog_without_images_is_an_error(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is nothing to align"):
        align([], checkpoint=checkpoint, folder=tmp_path / "a", settings=SETTINGS)
