"""Batches of rows of a tensor, on the device: from there where all of it fits, else read ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
from torch import Tensor

from kdcache.data.files.image_folder import Images
from kdcache.runtime import free_memory, to_device

_GPU_FRACTION = 1 / 2  # of a GPU's free memory, for a tensor that lies there as a whole


class Prefetcher:
    """Gives batches of rows of one tensor `(N, ...)`.

    A tensor that fits lies on the device as a whole. Another one stays where it is, in memory, in a
    mapped file or in image files: a thread gathers or decodes the next batch, and sends it to a
    GPU, while the caller works on the one at hand.

    Args:
        streamed: read ahead even where the tensor would fit.
    """

    def __init__(self, tensor: Images, device: torch.device, *, streamed: bool = False) -> None:
        self._device = device
        self._streamed = streamed or not isinstance(tensor, Tensor) or not _fits(tensor, device)
        if isinstance(tensor, Tensor) and not self._streamed:
            tensor = tensor.to(device)
        self._tensor = tensor
        copies = self._streamed and device.type == "cuda"
        self._copying = torch.cuda.Stream(device) if copies else None

    def batches(self, sizes: Sequence[int], *index: Tensor) -> Iterator[Tensor]:
        """Give tensor[index], in batches of these sizes, on the device.

        Args:
            index: one int64 `(sum of sizes,)` on the CPU for each of the tensor's first axes.
        """
        if self._streamed:
            yield from self._read_ahead(_cut(index, sizes))
            return
        index = tuple(to_device(axis, self._device) for axis in index)
        for rows in _cut(index, sizes):
            yield self._tensor[rows]

    def _read_ahead(self, indices: Iterator[tuple[Tensor, ...]]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as thread:
            ahead = None
            for rows in indices:
                ready = ahead
                ahead = thread.submit(self._gather, rows)
                if ready is not None:
                    yield self._receive(*ready.result())
            if ahead is not None:
                yield self._receive(*ahead.result())

    def _gather(self, index: tuple[Tensor, ...]) -> tuple[Tensor, torch.cuda.Event | None]:
        """In the thread: the rows, and the event that they have arrived on a GPU."""
        rows = self._tensor[index]
        if self._copying is None:
            return rows.to(self._device), None
        arrival = torch.cuda.Event()
        with torch.cuda.stream(self._copying):
            copy = to_device(rows, self._device)
            arrival.record(self._copying)
        return copy, arrival

    def _receive(self, rows: Tensor, arrival: torch.cuda.Event | None) -> Tensor:
        """Have the device's work wait for the arrival; the processor does not."""
        if arrival is not None:
            working = torch.cuda.current_stream(self._device)
            working.wait_event(arrival)
            rows.record_stream(working)
        return rows


def _cut(index: tuple[Tensor, ...], sizes: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """The index, one batch after the other."""
    for size, last in zip(sizes, accumulate(sizes), strict=True):
        yield tuple(axis[last - size : last] for axis in index)


def _fits(tensor: Tensor, device: torch.device) -> bool:
    return device.type != "cuda" or tensor.nbytes <= _GPU_FRACTION * free_memory(device)
