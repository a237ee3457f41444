"""The processes that torchrun starts: which one this is, and how they wait for and tell each other.

Callers write `distributed.init()` and `distributed.destroy()`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kdcache.errors import KdcacheError, PeerError

Result = TypeVar("Result")

_TIMEOUT = timedelta(hours=12)  # of waiting for a slower process; one that ended is noticed at once


@dataclass(frozen=True)
class Processes:
    """This process among `world_size` ones. A single process needs no torch.distributed.

    All processes call the same methods in the same order. Each method raises PeerError where
    another process has ended.

    Args:
        rank: of this process in the whole job, 0 to world_size - 1.
        world_size: how many processes the job has.
        local_rank: of this process on its machine; it picks the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which alone writes files and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            with _noticing_ended_peers():
                dist.barrier()

    def broadcast_object(self, function: Callable[[], Result]) -> Result:
        """Call `function` in the main process alone; all return its result or raise its error.

        Only a KdcacheError is passed on. Any other one ends the main process, and the rest notice
        it.
        """
        if self.world_size == 1:
            return function()
        outcome: list[Any] = [None, None]  # the result, the error
        if self.is_main:
            try:
                outcome[0] = function()
            except KdcacheError as error:
                outcome[1] = error
        with _noticing_ended_peers():
            dist.broadcast_object_list(outcome, src=0)
        result, error = outcome
        if error is not None:
            raise error
        return result

    def shard(self, rows: Tensor) -> Tensor:
        """This process's rows of `rows` `(N, ...)`; the shards' lengths differ by at most one."""
        return rows.tensor_split(self.world_size)[self.rank]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum `values` over the processes, in place. Returns them."""
        if self.world_size > 1:
            with _noticing_ended_peers():
                dist.all_reduce(values)
        return values

    def all_gather(self, rows: Tensor) -> Tensor:
        """All processes' rows `(n, ...)` as one tensor `(N, ...)` on the CPU; inverts `shard`."""
        if self.world_size == 1:
            return rows.cpu()
        shards: list[Tensor] = [torch.empty(0)] * self.world_size
        with _noticing_ended_peers():
            dist.all_gather_object(shards, rows.cpu())
        return torch.cat(shards)

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the main process's, in place."""
        if self.world_size > 1:
            for tensor in tensors:
                with _noticing_ended_peers():
                    dist.broadcast(tensor, src=0)

    def main_process_first(self, function: Callable[[], Result]) -> Result:
        """Call `function` in every process, in the main one first: for one that downloads files."""
        if not self.is_main:
            self.barrier()
        result = function()
        if self.is_main:
            self.barrier()
        return result


SINGLE_PROCESS = Processes()


def init() -> Processes:
    """This process's place in torchrun's job; `SINGLE_PROCESS` where torchrun did not start it."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backends, timeout=_TIMEOUT)
    return Processes(dist.get_rank(), world_size, int(os.environ["LOCAL_RANK"]))


def destroy() -> None:
    """Take leave of the other processes, where `init` found any."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _noticing_ended_peers() -> Iterator[None]:
    """torch.distributed raises RuntimeErrors of many texts where the other end has gone."""
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            "every process to reach the end",
            f"one that ended early ({str(error).splitlines()[0][:80]})",
            "see its own message; the same command, with any number of processes, goes on",
        ) from error
