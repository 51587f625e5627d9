from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import shared_training


@pytest.mark.slow
# DeepSpeed compiles an extension on first use on a CPU.
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the extra 'deepspeed' is not installed")
def test_two_processes_train_like_one(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Path]
) -> None:
    shared_training.require_equal("deepspeed_stage_2", tiny_checkpoint("llama"), tmp_path)
