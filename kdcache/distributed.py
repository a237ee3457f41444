"""The processes that torchrun starts: which one this is, waiting for the others, and telling them."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kdcache.errors import InputError

Result = TypeVar("Result")
_TIMEOUT = timedelta(hours=12)  # of waiting for a slower process; one that ended is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process among `world` ones. A single process needs no torch.distributed."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all are here. Raises InputError where one has ended."""
        if self.world > 1:
            _noticing_ended(dist.barrier)

    def from_first(self, function: Callable[[], Result]) -> Result:
        """What `function` returns, or raises, in the first process: all of them return or raise it."""
        if self.world == 1:
            return function()
        outcome: list[object] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except InputError as error:
                outcome[1] = error
        _noticing_ended(lambda: dist.broadcast_object_list(outcome, src=0))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of `rows` `(N, ...)`; the parts of all processes differ by at most one row."""
        return rows.tensor_split(self.world)[self.rank]

    def summed(self, values: Tensor) -> Tensor:
        """The sum of the processes' `values`, in all of them."""
        if self.world > 1:
            _noticing_ended(lambda: dist.all_reduce(values))
        return values

    def gathered(self, part: Tensor) -> Tensor:
        """The rows of all processes' parts, on the CPU, in all of them: the inverse of `share`."""
        if self.world == 1:
            return part.cpu()
        parts: list[Tensor] = [torch.empty(0)] * self.world
        _noticing_ended(lambda: dist.all_gather_object(parts, part.cpu()))
        return torch.cat(parts)

    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the first process's."""
        if self.world > 1:
            for tensor in tensors:
                _noticing_ended(lambda tensor=tensor: dist.broadcast(tensor, src=0))

    def one_by_one(self, function: Callable[[], Result]) -> Result:
        """`function` in every process, in the first one first: for what downloads when it is not there."""
        if not self.first:
            self.barrier()
        result = function()
        if self.first:
            self.barrier()
        return result


ALONE = Processes()


def join() -> Processes:
    """This process's place among those of torchrun; alone where torchrun did not start it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    if not dist.is_initialized():
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, timeout=_TIMEOUT)
    return Processes(dist.get_rank(), world, int(os.environ["LOCAL_RANK"]))


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _noticing_ended(communicate: Callable[[], object]) -> None:
    try:
        communicate()
    except RuntimeError as error:
        raise InputError(
            "every process to reach the end",
            f"one that ended early ({str(error).splitlines()[0][:80]})",
            "see its message above; the same command, with any number of processes, goes on",
        ) from error
