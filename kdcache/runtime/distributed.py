"""The processes that torchrun starts: which one this is, waiting for the others, and telling them."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kdcache.errors import KdcacheError

Result = TypeVar("Result")


_TIMEOUT = timedelta(hours=12)  # of waiting for a slower process; one that ended is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process among `world_size` ones. A single process needs no torch.distributed."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all are here. Raises KdcacheError where one has ended."""
        if self.world_size > 1:
            _noticing_ended(dist.barrier)

    def broadcast_object(self, function: Callable[[], Result]) -> Result:
        """What `function` returns, or raises, in the first process: all of them return or raise it."""
        if self.world_size == 1:
            return function()
        outcome: list[object] = [None, None]
        if self.is_main:
            try:
                outcome[0] = function()
            except KdcacheError as error:
                outcome[1] = error
        _noticing_ended(lambda: dist.broadcast_object_list(outcome, src=0))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def shard(self, rows: Tensor) -> Tensor:
        """This process's part of `rows` `(N, ...)`; the parts of all processes differ by at most one row."""
        return rows.tensor_split(self.world_size)[self.rank]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum of the processes' `values`, in all of them."""
        if self.world_size > 1:
            _noticing_ended(lambda: dist.all_reduce(values))
        return values

    def all_gather(self, part: Tensor) -> Tensor:
        """The rows of all processes' parts, on the CPU, in all of them: the inverse of `shard`."""
        if self.world_size == 1:
            return part.cpu()
        parts: list[Tensor] = [torch.empty(0)] * self.world_size
        _noticing_ended(lambda: dist.all_gather_object(parts, part.cpu()))
        return torch.cat(parts)

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the first process's."""
        if self.world_size > 1:
            for tensor in tensors:
                _noticing_ended(lambda tensor=tensor: dist.broadcast(tensor, src=0))

    def main_process_first(self, function: Callable[[], Result]) -> Result:
        """`function` in every process, in the first one first: for what downloads when it is not there."""
        if not self.is_main:
            self.barrier()
        result = function()
        if self.is_main:
            self.barrier()
        return result


SINGLE_PROCESS = Processes()


def init() -> Processes:
    """This process's place among those of torchrun; alone where torchrun did not start it."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, timeout=_TIMEOUT)
    return Processes(dist.get_rank(), world_size, int(os.environ["LOCAL_RANK"]))


def destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _noticing_ended(communicate: Callable[[], object]) -> None:
    try:
        communicate()
    except RuntimeError as error:
        raise KdcacheError(
            "every process to reach the end",
            f"one that ended early ({str(error).splitlines()[0][:80]})",
            "see its message above; the same command, with any number of processes, goes on",
        ) from error
