"""Training by several processes: who leads, who follows, and what is left of it afterwards.

On one machine Lightning runs the same command again, once for each further device, with LOCAL_RANK
above 0; such copies end with the fold that they were started for. On several machines torchrun
starts all processes at once, and they stay for all folds: the leader names each that it is about
to train. Either way a follower takes no lock, writes nothing and passes all other stages by.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from mllm_msr.errors import SettingsError, TrainingError

_RANK: Final = "RANK"
_LOCAL_RANK: Final = "LOCAL_RANK"
_SIZE: Final = "WORLD_SIZE"
_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"
# What Lightning and DeepSpeed set in the leader's own environment, and leave there.
_LEFT_BEHIND: Final = (_RANK, _LOCAL_RANK, "NODE_RANK", _SIZE, "MASTER_ADDR", "MASTER_PORT")


def launched_by_torchrun(variables: Mapping[str, str]) -> bool:
    """Whether torchrun has started the process, and others with it."""
    return _TORCHRUN in variables and variables.get(_SIZE, "1") != "1"


def is_worker(variables: Mapping[str, str]) -> bool:
    """Whether a process with these environment variables was started to join another's training."""
    rank = _RANK if launched_by_torchrun(variables) else _LOCAL_RANK
    return variables.get(rank, "0") != "0"


def require_launcher(nodes: int, devices: int | Literal["auto"]) -> None:
    """Refuse what the settings and the launcher say differently.

    Args:
        nodes: Machines that shall train together.
        devices: Devices of each.

    Raises:
        SettingsError: Several machines without torchrun, or other numbers than it has started.
        TrainingError: The command was started several times, but not by torchrun.
    """
    size = os.environ.get(_SIZE, "1")
    if launched_by_torchrun(os.environ):
        local = os.environ.get("LOCAL_WORLD_SIZE", "1")
        if devices not in ("auto", int(local)) or nodes * int(local) != int(size):
            received = f"train.nodes={nodes} train.devices={devices}"
            problem = f"torchrun has started {size} processes, {local} of them here: {received}"
            raise SettingsError([f"{problem} must say the same"])
    elif size != "1":
        raise TrainingError(
            needed="a command that is started once, or by torchrun",
            received=f"one that another launcher has started ({_SIZE}={size})",
            remedy="start it without that launcher, with train.strategy=ddp train.devices=N",
        )
    elif nodes > 1:
        command = f"torchrun --nnodes={nodes} ... -m -- mllm_msr train"
        raise SettingsError([f"train.nodes={nodes} needs '{command}' on each of the machines"])


@contextlib.contextmanager
def temporary_process_group() -> Iterator[None]:
    """Train as the only process or as the leader of others, and be alone again afterwards.

    Each fold's training starts followers of its own: without this, the second one would wait for
    those of the first, which have ended. Those of torchrun stay.
    """
    if launched_by_torchrun(os.environ):
        yield
        return
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


class ProcessGroup:
    """The folds that the leader of processes started by torchrun is about to train.

    Without torchrun there is nobody to tell, and a follower joins the one fold at hand.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared

    def announce_fold(self, fold: int | None) -> None:
        """Tell all followers the next fold; `None` for no further one."""
        if self._shared:
            _broadcast(fold)

    def announced_folds(self) -> Iterator[int]:
        """What the leader tells, as a follower hears it."""
        while (fold := _broadcast(None)) is not None:
            yield fold


@contextlib.contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Form the group of the processes that torchrun has started, for the time of a block.

    A follower waits here until its leader arrives, half an hour at most.
    """
    if not launched_by_torchrun(os.environ):
        yield ProcessGroup(shared=False)
        return
    import torch  # noqa: PLC0415 - takes seconds, and few commands train

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend)
    try:
        yield ProcessGroup(shared=True)
    finally:
        _leave_group()


def _broadcast(fold: int | None) -> int | None:
    import torch  # noqa: PLC0415 - as above

    # A tensor, since objects would travel as pickles.
    told = torch.tensor([-1 if fold is None else fold])
    torch.distributed.broadcast(told, src=0)
    return int(told) if int(told) >= 0 else None


def _leave_group() -> None:
    # Where nothing has imported torch, nothing has formed a group.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
