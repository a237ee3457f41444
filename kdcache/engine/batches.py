"""Which images each step of an epoch learns from, in which views, and what the teacher says of
them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.config import UNLABELLED
from kdcache.data import ImageData, Prefetcher, draw_views
from kdcache.distill import Head
from kdcache.engine.resolve import TrainConfig
from kdcache.errors import OptionError
from kdcache.runtime import Processes, to_device


@dataclass(frozen=True)
class Batch:
    """What one step of one process learns from, on its device.

    `fraction`: how much of the batch that all processes learn from these rows are.
    `labelled`: how many of the rows have a label.
    `label_weight`: of these rows' label term beside their distillation term, so that the mean over
    all processes' labelled rows comes out; 1 where this process has as large a part of both.
    `teacher_logits`: what each head is taught with, `(B, K)` or `(B, C)`; {} where nothing is read
    from a cache.
    """

    fraction: float
    labelled: int
    label_weight: float
    rows: Tensor  # int64 (B,)
    view_index: Tensor  # int64 (B,)
    views: Tensor  # int16 (B, 5)
    labels: Tensor  # int64 (B,)
    images: Tensor  # uint8 (B, 3, H, W)
    teacher_logits: dict[Head, Tensor]


class Batches:
    """The batches of every epoch, each image once an epoch.

    Args:
        images: whose training split is learned from.
        teacher_logits: what each head is taught with, `(N, V, K)` or `(N, V, C)`.
        view_table: int16 `(N, V, 5)`, the cached views of the training split; None where there is
            no cache.
        processes: divide each batch among them.

    Attributes:
        steps: of an epoch.
        smallest: images in a process's smallest batch.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageData,
        teacher_logits: dict[Head, Tensor],
        view_table: np.ndarray | None,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._config, self._device, self._processes = config, device, processes
        self._train, self._view_table = images.splits["train"], view_table
        self._has_label = self._train.labels != UNLABELLED
        self._images = Prefetcher(self._train.images, device, streamed=images.streamed)
        self._teacher_logits: dict[Head, Prefetcher] = {}
        for head, logits in teacher_logits.items():
            self._teacher_logits[head] = Prefetcher(logits, device, streamed=images.streamed)
        self.steps = math.ceil(len(self._train) / config.batch_size)
        self.smallest = len(self._train) // self.steps // processes.world_size

    def of(self, epoch: int) -> Iterator[Batch]:
        """One for each step of an epoch (0, 1, ...), in an order drawn for it.

        Sizes differ by at most one.
        """
        generator = torch.Generator().manual_seed((self._config.seed << 16) + epoch)
        whole = torch.randperm(len(self._train), generator=generator).tensor_split(self.steps)
        own = [self._processes.shard(rows) for rows in whole]
        shares = [self._shares(*pair) for pair in zip(own, whole, strict=True)]
        sizes = [len(some) for some in own]
        rows = torch.cat(own)
        view_index, views = self._views(epoch)
        # an epoch's small columns go to the device at once, its images and logits batch by batch
        small = (rows, view_index[rows], views[rows], self._train.labels[rows])
        columns = (to_device(column, self._device).split(sizes) for column in small)
        images = self._images.batches(sizes, rows)
        logits = self._logits(sizes, rows, view_index[rows])
        for share, *batch in zip(shares, *columns, images, logits, strict=True):
            yield Batch(*share, *batch)

    def _shares(self, own: Tensor, whole: Tensor) -> tuple[float, int, float]:
        """Of one batch's rows, this process's and all: a Batch's first three fields."""
        fraction = len(own) / len(whole)
        labelled = int(self._has_label[own].sum())
        of_all = int(self._has_label[whole].sum())
        return fraction, labelled, labelled / max(1, of_all) / fraction

    def _logits(
        self, sizes: list[int], rows: Tensor, view_index: Tensor
    ) -> Iterator[dict[Head, Tensor]]:
        by_head: dict[Head, Iterator[Tensor]] = {}
        for head, prefetcher in self._teacher_logits.items():
            by_head[head] = prefetcher.batches(sizes, rows, view_index)
        for _ in sizes:
            logits: dict[Head, Tensor] = {}
            for head, batches in by_head.items():
                logits[head] = next(batches)
            yield logits

    def _views(self, epoch: int) -> tuple[Tensor, Tensor]:
        """For an epoch: whose soft targets, int64 `(N,)`, and the student's views `(N, 5)`."""
        count, seed = len(self._train), self._config.seed
        if self._config.augment == "cached" and self._view_table is not None:
            # each image begins somewhere and goes through its views: all are seen equally often
            generator = torch.Generator().manual_seed(seed)
            views = self._view_table.shape[1]
            index = (torch.randint(views, (count,), generator=generator) + epoch) % views
            return index, torch.from_numpy(self._view_table)[torch.arange(count), index]
        drawn = draw_views(
            self._config.augment,
            count,
            *self._train.images.shape[2:],
            views=2,
            seed=seed,
            stream=f"student epoch {epoch}",
        )
        return torch.zeros(count, dtype=torch.int64), torch.from_numpy(drawn[:, 1])


def check_processes(config: TrainConfig, images: int, processes: Processes) -> None:
    """Raise OptionError where several processes cannot share a training on so many images."""
    if processes.world_size == 1:
        return
    steps = math.ceil(images / config.batch_size)
    if images // steps < processes.world_size:
        expected = f"at least an image a step for each of {processes.world_size} processes"
        raise OptionError(expected, f"{images // steps}", "use fewer")
    if config.mix != "none":
        expected = "--mix none with several processes"
        raise OptionError(expected, f"--mix {config.mix}", "use one process, or no --mix")
