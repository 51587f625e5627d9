from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import shared_training


@pytest.mark.slow
def test_two_processes_train_like_one(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    shared_training.require_equal("fsdp", tiny_checkpoint("llama"), tmp_path)
