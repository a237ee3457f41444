"""Rows of a tensor, batch after batch, on the device that works on them: from there where all of it fits, else read ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from kdcache.runtime import free_memory, to_device

_GPU_SHARE = 1 / 2  # of the free memory that a tensor may take to lie there as a whole


class Prefetcher:
    """Gives batches of rows of one tensor `(N, ...)`.

    A tensor that fits lies on the device as a whole. Another one stays where it is, in memory or in a mapped file: a thread
    gathers the next batch, and on a GPU sends it there, while the caller works on the one at hand.

    Args:
        streamed: read ahead even where the tensor would fit.
    """

    def __init__(self, tensor: Tensor, device: torch.device, *, streamed: bool = False) -> None:
        self._tensor, self._device = tensor, device
        self._streamed = streamed or not _fits(tensor, device)
        if not self._streamed:
            self._tensor = tensor.to(device)
        gpu = self._streamed and device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if gpu else None

    def batches(self, sizes: Sequence[int], *index: Tensor) -> Iterator[Tensor]:
        """tensor[index], in batches of these sizes, on the device.

        Args:
            index: one int64 `(sum of sizes,)` on the CPU for each of the tensor's first axes.
        """
        if not self._streamed:
            index = tuple(to_device(axis, self._device) for axis in index)
        parts = (
            tuple(axis[last - size : last] for axis in index)
            for size, last in zip(sizes, accumulate(sizes), strict=True)
        )
        if not self._streamed:
            yield from (self._tensor[part] for part in parts)
            return
        with ThreadPoolExecutor(1) as thread:
            ahead = None
            for part in parts:
                ready, ahead = ahead, thread.submit(self._gather, part)
                if ready is not None:
                    yield self._received(*ready.result())
            if ahead is not None:
                yield self._received(*ahead.result())

    def _gather(self, part: tuple[Tensor, ...]) -> tuple[Tensor, torch.cuda.Event | None]:
        """In the thread: the rows, and what happens when they have arrived."""
        rows = self._tensor[part]
        if self._copying is None:
            return rows.to(self._device), None
        with torch.cuda.stream(self._copying):
            return to_device(rows, self._device), self._copying.record_event()

    def _received(self, rows: Tensor, arrival: torch.cuda.Event | None) -> Tensor:
        """Have the device's work wait for the arrival; the processor does not."""
        if arrival is not None:
            working = torch.cuda.current_stream(self._device)
            working.wait_event(arrival)
            rows.record_stream(working)
        return rows


def _fits(tensor: Tensor, device: torch.device) -> bool:
    return device.type != "cuda" or tensor.nbytes <= _GPU_SHARE * free_memory(device)
