"""Which images each step of an epoch learns from, in which views, and what the teacher says of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.config import TrainOptions
from kdcache.data import ImageData, Prefetcher, draw_views
from kdcache.runtime import Processes, to_device


@dataclass(frozen=True)
class Batch:
    """What one step of one process learns from, on its device.

    `share`: these rows' part of the batch that all processes learn from. `taught`: the teacher's logits `(B, ...)` under the
    name of whose classes they have; {} where none are read.
    """

    share: float
    rows: Tensor  # int64 (B,)
    view_index: Tensor  # int64 (B,)
    views: Tensor  # int16 (B, 5)
    labels: Tensor  # int64 (B,)
    images: Tensor  # uint8 (B, 3, H, W)
    taught: dict[str, Tensor]


class Batches:
    """The batches of every epoch, each image once an epoch.

    Args:
        options: resolved.
        images: divided dataset, whose training part is learned from.
        taught: the teacher's logits `(N, V, ...)` under the name of whose classes they have.
        view_table: int16 `(N, V, 5)`, the cached views of the training part; None where there is no cache.
        processes: share each batch.
    """

    def __init__(
        self,
        options: TrainOptions,
        images: ImageData,
        taught: dict[str, Tensor],
        view_table: np.ndarray | None,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._options, self._device, self._processes = options, device, processes
        self._train, self._view_table = images.splits["train"], view_table
        self._images = Prefetcher(self._train.images, device, streamed=images.streamed)
        self._taught = {
            classes: Prefetcher(logits, device, streamed=images.streamed)
            for classes, logits in taught.items()
        }
        self.steps = math.ceil(len(self._train) / options.batch_size)

    def of(self, epoch: int) -> Iterator[Batch]:
        """One for each step of an epoch (0, 1, ...), in an order drawn for it; sizes differ by at most one, so none is tiny."""
        generator = torch.Generator().manual_seed((self._options.seed << 16) + epoch)
        whole = torch.randperm(len(self._train), generator=generator).tensor_split(self.steps)
        own = [self._processes.shard(rows) for rows in whole]
        shares = [len(part) / len(rows) for part, rows in zip(own, whole, strict=True)]
        rows, sizes = torch.cat(own), [len(part) for part in own]
        view_index, views = self._views(epoch)
        small = (
            rows,
            view_index[rows],
            views[rows],
            self._train.labels[rows],
        )  # sent to the device at once
        columns = (to_device(column, self._device).split(sizes) for column in small)
        images, taught = (
            self._images.batches(sizes, rows),
            self._logits(sizes, rows, view_index[rows]),
        )
        for batch in zip(shares, *columns, images, taught, strict=True):
            yield Batch(*batch)

    def _logits(
        self, sizes: list[int], rows: Tensor, view_index: Tensor
    ) -> Iterator[dict[str, Tensor]]:
        supplies = {
            classes: supply.batches(sizes, rows, view_index)
            for classes, supply in self._taught.items()
        }
        for _ in sizes:
            yield {classes: next(logits) for classes, logits in supplies.items()}

    def _views(self, epoch: int) -> tuple[Tensor, Tensor]:
        """view_index int64 `(N,)` for the soft targets, and the views `(N, 5)` that the student sees; on the CPU."""
        count, seed = len(self._train), self._options.seed
        if self._options.augment == "cached":
            # each image begins somewhere and takes its views in turn: all are seen equally often
            generator = torch.Generator().manual_seed(seed)
            views = self._view_table.shape[1]
            index = (torch.randint(views, (count,), generator=generator) + epoch) % views
            return index, torch.from_numpy(self._view_table)[torch.arange(count), index]
        shape = self._train.images.shape[2:]
        drawn = draw_views(
            self._options.augment,
            count,
            *shape,
            views=2,
            seed=seed,
            stream=f"student epoch {epoch}",
        )
        return torch.zeros(count, dtype=torch.int64), torch.from_numpy(drawn[:, 1])
