"""Training by several processes: who leads, who follows, and what is left of it afterwards.

For `train.strategy=ddp` Lightning runs the same command again, once for each further device, with
LOCAL_RANK above 0. Such a copy is a follower: it takes no lock, writes nothing, passes every
stage by but the fold that is being trained, and ends after that. Its leader goes on alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from mllm_msr.errors import TrainingError

_RANK: Final = "LOCAL_RANK"
# What Lightning sets for its copies in the leader's own environment, and leaves there.
_LEFT_BEHIND: Final = (_RANK, "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SIZE: Final = "WORLD_SIZE"


def is_follower(variables: Mapping[str, str]) -> bool:
    """Whether a process with these environment variables was started to join another's training."""
    return variables.get(_RANK, "0") != "0"


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Train as the only process or as the leader of others, and be alone again afterwards.

    Each fold's training starts followers of its own: without this, the second one would wait for
    those of the first, which have ended.

    Raises:
        TrainingError: The command itself was started several times, by torchrun or a scheduler.
    """
    if os.environ.get(_SIZE, "1") != "1":
        raise TrainingError(
            needed="a command that is started once and starts the other processes itself",
            received=f"one that another launcher has started ({_SIZE}={os.environ[_SIZE]})",
            remedy="start it without that launcher, with train.strategy=ddp train.devices=N",
        )
    before = {name: os.environ.get(name) for name in _LEFT_BEHIND}
    try:
        yield
    finally:
        _leave_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _leave_group() -> None:
    # Where nothing has imported torch, nothing has formed a group.
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
