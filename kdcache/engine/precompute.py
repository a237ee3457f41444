"""Phase one: run the frozen teacher once over every view of every image and store its raw logits."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from kdcache.cache import CacheWriter, Manifest
from kdcache.config import SPLITS, PrecomputeOptions
from kdcache.data import ImageData, Prefetcher, draw_views
from kdcache.engine.teacher import Teacher
from kdcache.errors import KdcacheError
from kdcache.models import state_digest
from kdcache.runtime import SINGLE_PROCESS, Processes, keep_freed_memory, to_cpu_async

_BLOCK_BYTES = 2 << 20
_BLOCK_ROWS = 1024  # at most: what one kill can cost


def make_manifest(teacher: Teacher, images: ImageData, options: PrecomputeOptions) -> Manifest:
    """All that shapes the numbers. A path or a batch size does not, so they are not in it."""
    model = teacher.model
    device = (
        torch.cuda.get_device_name(teacher.device)
        if teacher.device.type == "cuda"
        else teacher.device.type
    )
    views = {split: options.views if split == "train" else 1 for split in SPLITS}
    document = {
        "dataset": {
            "name": images.name,
            "class_names": list(images.class_names),
            "image_shape": list(images.image_shape),
            "limit": options.limit,
            "store_size": options.store_size if images.name == "folder" else None,
            "split_seed": options.split_seed,
        },
        "splits": {
            split: {"rows": len(part), "views": views[split], "digest": part.digest()}
            for split, part in images.splits.items()
        },
        "teacher": {
            "name": model.name,
            "weights": Path(model.weights).name,
            "digest": state_digest(model.module),
            "classes": teacher.classes,
            "class_names": list(model.preprocessing.class_names) or None,
        },
        "input": {
            "image_size": model.preprocessing.image_size,
            "interpolation": "bilinear, antialiased",
            "mean": list(model.preprocessing.mean),
            "std": list(model.preprocessing.std),
        },
        "views": {"augment": options.augment, "seed": options.seed},
        "precision": teacher.precision,
        "software": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "device": device,
            "compile": options.compile,
        },
    }
    return Manifest.from_json(document)


def view_tables(images: ImageData, options: PrecomputeOptions) -> dict[str, np.ndarray]:
    """int16 `(N, V, 5)` a split; only the training part has more than the whole image."""
    return {
        split: draw_views(
            options.augment, len(part), *images.image_shape,
            views=options.views if split == "train" else 1, seed=options.seed, stream=split,
        )
        for split, part in images.splits.items()
    }  # fmt: skip


def precompute(
    teacher: Teacher,
    images: ImageData,
    options: PrecomputeOptions,
    progress: Callable[[int, int], None],
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Fill the cache, or what an interrupted run left of it, and seal it. Each of the processes fills its share.

    Args:
        progress: called with (views finished, views in all) of this process after each batch.

    Returns of this process's run: `already_complete` where the cache was there already, views and bytes of the whole, views
    computed, seconds, views_per_second.
    """
    tables = view_tables(images, options)
    arrays: dict[str, np.ndarray] = {}
    for split, part in images.splits.items():
        arrays |= {
            f"{split}/views": tables[split],
            f"{split}/labels": part.labels.numpy(),
            f"{split}/image_crc32": part.row_checksums(),
        }
    manifest = make_manifest(teacher, images, options)
    block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (2 * teacher.classes)))
    total = sum(table.shape[0] * table.shape[1] for table in tables.values())
    started, computed = time.perf_counter(), 0
    with (
        CacheWriter(
            options.cache,
            manifest,
            arrays,
            block_rows=block_rows,
            restart=options.restart,
            processes=processes,
        ) as writer,
        _WriteBehind(writer) as behind,
    ):
        share = sum(len(writer.rows(block)) for block in writer.missing)
        before = total - share if processes.world_size == 1 else 0
        run = _BlockRunner(teacher, images, tables, options.batch_size or teacher.batch_size)
        try:
            for block, logits in run.blocks(
                writer, lambda done: progress(before + done, before + share)
            ):
                behind.write(block, logits)
                computed += len(writer.rows(block))
            behind.wait()
        except KeyboardInterrupt:
            behind.wait()
            raise KeyboardInterrupt(
                f"{before + computed:,} rows are saved; the same command goes on"
            ) from None
        if not writer.complete:
            writer.seal()
    seconds = time.perf_counter() - started
    return {
        "already_complete": writer.complete,
        "views": total,
        "bytes": options.cache.stat().st_size,
        "computed": computed,
        "seconds": seconds,
        "views_per_second": computed / seconds,
    }


class _WriteBehind:
    """Writes one block in a thread while the teacher computes the next: what waits for the disk does not wait for it.

    On a GPU the thread also waits for the logits, so that the teacher's queue there never runs empty.
    """

    def __init__(self, writer: CacheWriter) -> None:
        self._writer, self._pending = writer, None
        self._thread = ThreadPoolExecutor(1)

    def write(self, block: int, logits: Tensor) -> None:
        """Begin to write a block, once the one before is on the disk; raises what went wrong with that one.

        Args:
            logits: float32 `(rows, C)` on the teacher's device, which may still be computing them.
        """
        arriving = to_cpu_async(logits)
        self.wait()
        self._pending = self._thread.submit(lambda: self._writer.write(block, arriving().numpy()))

    def wait(self) -> None:
        """Until everything is on the disk. Raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "_WriteBehind":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()


class _BlockRunner:
    """Computes the logits of blocks of (image, view) rows, in batches on the teacher's device."""

    def __init__(
        self, teacher: Teacher, images: ImageData, tables: dict[str, np.ndarray], batch_size: int
    ) -> None:
        self._teacher, self._batch_size = teacher, batch_size
        self._images = {
            split: Prefetcher(part.images, teacher.device, streamed=images.streamed)
            for split, part in images.splits.items()
        }
        self._views = {split: torch.from_numpy(table) for split, table in tables.items()}
        self._render = teacher.renderer(images.image_shape)

    def blocks(
        self, writer: CacheWriter, progress: Callable[[int], None]
    ) -> Iterator[tuple[int, Tensor]]:
        """The missing blocks, each with its logits float32 `(rows, C)` on the device.

        Args:
            progress: called with the number of rows that the teacher was given so far.
        """
        done = 0
        if self._teacher.device.type == "cpu":
            keep_freed_memory()
        for split, blocks in groupby(writer.missing, lambda block: writer.rows(block).split):
            places = {block: writer.rows(block) for block in blocks}
            sizes = {
                block: _batch_sizes(len(place), self._batch_size) for block, place in places.items()
            }
            rows = torch.cat([torch.arange(place.start, place.stop) for place in places.values()])
            image_index, view_index = (
                rows // self._views[split].shape[1],
                rows % self._views[split].shape[1],
            )
            in_turn = list(chain(*sizes.values()))
            images = self._images[split].batches(in_turn, image_index)
            views = Prefetcher(self._views[split], self._teacher.device).batches(
                in_turn, image_index, view_index
            )
            for block in places:
                parts = []
                for size in sizes[block]:
                    parts.append(self._logits(next(images), next(views)))
                    done += size
                    progress(done)
                yield block, torch.cat(parts)

    def _logits(self, images: Tensor, views: Tensor) -> Tensor:
        while True:
            try:
                parts = zip(
                    images.split(self._batch_size), views.split(self._batch_size), strict=True
                )
                return torch.cat([self._teacher.logits(self._render(*part)) for part in parts])
            except torch.OutOfMemoryError as error:
                self._halve(error)

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch, from here to the end of the run."""
        if self._batch_size == 1:
            device, reason = self._teacher.device, str(error).splitlines()[0]
            raise KdcacheError(
                f"memory on {device} for one view", f"too little ({reason})", "use another --device"
            ) from error
        self._batch_size //= 2
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()


def _batch_sizes(count: int, largest: int) -> list[int]:
    """`count` rows in batches of `largest`, the last of which may be smaller."""
    return [min(largest, count - first) for first in range(0, count, largest)]
