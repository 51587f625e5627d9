"""Processes of distributed training: how they are launched, and which one is rank 0.

On one machine, Lightning runs the same command again for each further device, with LOCAL_RANK above
0; these workers exit after the fold that they were started for. On several machines, torchrun
starts all processes at once, and they run until the last fold: rank 0 announces each fold before it
trains. In both cases a worker (any rank except 0) takes no lock, writes nothing and skips all other
stages.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from mllm_msr.errors import SettingsError, TrainingError

_RANK: Final = "RANK"
_LOCAL_RANK: Final = "LOCAL_RANK"
_WORLD_SIZE: Final = "WORLD_SIZE"
_TORCHRUN_ID: Final = "TORCHELASTIC_RUN_ID"
# Variables that Lightning and DeepSpeed set in the environment of rank 0 and do not remove.
_SET_BY_TRAINING: Final = (
    _RANK,
    _LOCAL_RANK,
    "NODE_RANK",
    _WORLD_SIZE,
    "MASTER_ADDR",
    "MASTER_PORT",
)


def launched_by_torchrun(variables: Mapping[str, str]) -> bool:
    """Check whether torchrun started the process together with others.

    Args:
        variables: Environment variables of the process.
    """
    return _TORCHRUN_ID in variables and variables.get(_WORLD_SIZE, "1") != "1"


def is_worker(variables: Mapping[str, str]) -> bool:
    """Check whether the process was started to train as a rank other than 0.

    Args:
        variables: Environment variables of the process.
    """
    rank = _RANK if launched_by_torchrun(variables) else _LOCAL_RANK
    return variables.get(rank, "0") != "0"


def require_launcher(nodes: int, devices: int | Literal["auto"]) -> None:
    """Check that the settings agree with how the process was launched.

    Args:
        nodes: Machines that train together.
        devices: Devices per machine.

    Raises:
        SettingsError: There are several machines without torchrun, or torchrun started another
            number of processes.
        TrainingError: The command was started several times, but not by torchrun.
    """
    world_size = os.environ.get(_WORLD_SIZE, "1")
    if launched_by_torchrun(os.environ):
        local = os.environ.get("LOCAL_WORLD_SIZE", "1")
        if devices not in ("auto", int(local)) or nodes * int(local) != int(world_size):
            problem = (
                f"train.nodes={nodes} and train.devices={devices} do not match torchrun, which "
                f"started {world_size} processes, {local} of them on this machine. Change the "
                "settings, or --nnodes and --nproc-per-node of torchrun."
            )
            raise SettingsError([problem])
    elif world_size != "1":
        raise TrainingError(
            "The command was started several times by a launcher other than torchrun "
            f"({_WORLD_SIZE}={world_size}). Start it once with train.strategy=ddp train.devices=N, "
            "or use torchrun."
        )
    elif nodes > 1:
        command = f"torchrun --nnodes={nodes} ... -m -- mllm_msr train"
        raise SettingsError(
            [f"train.nodes={nodes} needs torchrun. Start '{command}' on each machine."]
        )


@contextlib.contextmanager
def temporary_process_group() -> Iterator[None]:
    """Leave the process group and restore the environment variables at the end of the block.

    Lightning starts new workers for each training. Without this, a second training in this process
    would wait for the workers of the first, which have exited or were ended after an error. Workers
    of torchrun run for all folds, so nothing is done for them.
    """
    if launched_by_torchrun(os.environ):
        yield
        return
    _import_group_functions()
    before = {name: os.environ.get(name) for name in _SET_BY_TRAINING}
    try:
        with _left_at_the_end():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ProcessGroup:
    """Channel by which rank 0 announces folds to the workers that torchrun started.

    Without torchrun there are no such workers, and announcements do nothing.
    """

    def __init__(self, *, has_workers: bool) -> None:
        self._has_workers = has_workers

    def announce_fold(self, fold: int | None) -> None:
        """Send the next fold to all workers; `None` after the last fold."""
        if self._has_workers:
            _broadcast(fold)

    def announced_folds(self) -> Iterator[int]:
        """Yield the folds that rank 0 announces; for workers."""
        while (fold := _broadcast(None)) is not None:
            yield fold


@contextlib.contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """Create the process group of the processes that torchrun started, within the block.

    A worker waits here for rank 0, for at most half an hour.
    """
    if not launched_by_torchrun(os.environ):
        yield ProcessGroup(has_workers=False)
        return
    import torch  # noqa: PLC0415 - takes seconds, and few commands train

    _import_group_functions()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend)
    with _left_at_the_end():
        yield ProcessGroup(has_workers=True)


@contextlib.contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 finish the block before the workers that torchrun started begin it.

    They then read what it has written into the run folder, instead of writing the same files.
    """
    torch = _torch_with_group()
    is_worker = torch is not None and torch.distributed.get_rank() > 0
    if is_worker:
        _broadcast(None)  # waits for rank 0
    yield
    if torch is not None and not is_worker:
        _broadcast(None)


def _import_group_functions() -> None:
    """Import the functions of torch that have the process group as a default argument.

    Torch imports them for DDP. If that happens after the group is created, they refer to it until
    the interpreter shuts down, and the threads of the group with them: leaving the group does not
    end the threads, and one that runs during the shutdown can abort the process.
    """
    if importlib.import_module("torch.distributed").is_available():
        importlib.import_module("torch.distributed.nn")


def _broadcast(fold: int | None) -> int | None:
    import torch  # noqa: PLC0415 - as above

    # As a tensor: broadcast_object_list would send a pickle.
    message = torch.tensor([-1 if fold is None else fold])
    torch.distributed.broadcast(message, src=0)
    return int(message) if int(message) >= 0 else None


@contextlib.contextmanager
def _left_at_the_end() -> Iterator[None]:
    """Leave the process group, if there is one, at the end of the block.

    If the block succeeds, all processes leave together: one that exits earlier would close the
    connections that the others still use. Lightning's objects refer to the group and to each other,
    so they are collected: the threads of the group end only with the last reference to it.
    """
    try:
        yield
        torch = _torch_with_group()
        if torch is not None:
            torch.distributed.barrier()
    finally:
        torch = _torch_with_group()
        if torch is not None:
            torch.distributed.destroy_process_group()
            gc.collect()


def _torch_with_group() -> Any:
    """Return torch if this process is in a process group, else None."""
    # If torch has not been imported, there is no process group.
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return None
    return torch if torch.distributed.is_initialized() else None
