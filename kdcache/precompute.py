"""Phase one: run the frozen teacher once over every view of every image and store its raw logits."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from kdcache.config import SPLITS, PrecomputeOptions
from kdcache.distributed import ALONE, Processes
from kdcache.errors import InputError
from kdcache.images import ImageData
from kdcache.models import state_digest
from kdcache.teacher import Teacher
from kdcache.views import draw_views
from kdcache.writer import BlockRows, CacheWriter

_BLOCK_BYTES = 2 << 20
_BLOCK_ROWS = 1024  # at most: what one kill can cost


def make_manifest(teacher: Teacher, images: ImageData, options: PrecomputeOptions) -> dict[str, Any]:
    """All that shapes the numbers. A path or a batch size does not, so they are not in it."""
    model = teacher.model
    device = torch.cuda.get_device_name(teacher.device) if teacher.device.type == "cuda" else teacher.device.type
    views = {split: options.views if split == "train" else 1 for split in SPLITS}
    return {
        "dataset": {
            "name": images.name,
            "class_names": list(images.class_names),
            "image_shape": list(images.image_shape),
            "limit": options.limit,
            "store_size": options.store_size if images.name == "folder" else None,
            "split_seed": options.split_seed,
        },
        "splits": {
            split: {"rows": len(part), "views": views[split], "digest": part.digest()} for split, part in images.splits.items()
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
        "software": {"torch": torch.__version__, "torchvision": torchvision.__version__, "device": device},
    }


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
    processes: Processes = ALONE,
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
    batch_size = options.batch_size or (64 if teacher.device.type == "cpu" else 512)
    total = sum(table.shape[0] * table.shape[1] for table in tables.values())
    started, computed = time.perf_counter(), 0
    with (
        CacheWriter(
            options.cache, manifest, arrays, block_rows=block_rows, restart=options.restart, processes=processes
        ) as writer,
        _WriteBehind(writer) as behind,
    ):
        share = sum(len(writer.rows(block)) for block in writer.missing)
        before = total - share if processes.world == 1 else 0
        run = _BlockRunner(teacher, images, tables, batch_size)
        try:
            for block in writer.missing:
                done = before + computed
                logits = run(writer.rows(block), lambda n, done=done: progress(done + n, before + share))
                behind.write(block, logits)
                computed += len(writer.rows(block))
            behind.wait()
        except KeyboardInterrupt:
            behind.wait()
            raise KeyboardInterrupt(f"{before + computed:,} rows are saved; the same command goes on") from None
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
    """Writes one block in a thread while the teacher computes the next: what waits for the disk does not wait for it."""

    def __init__(self, writer: CacheWriter) -> None:
        self._writer, self._pending = writer, None
        self._thread = ThreadPoolExecutor(1)

    def write(self, block: int, logits: np.ndarray) -> None:
        """Begin to write a block, once the one before is on the disk; raises what went wrong with that one."""
        self.wait()
        self._pending = self._thread.submit(self._writer.write, block, logits)

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
    """Computes the logits of runs of (image, view) rows, in batches on the teacher's device."""

    def __init__(self, teacher: Teacher, images: ImageData, tables: dict[str, np.ndarray], batch_size: int) -> None:
        self._teacher, self._batch_size = teacher, batch_size
        self._images = {split: part.images.to(teacher.device) for split, part in images.splits.items()}
        self._views = {split: torch.from_numpy(table).to(teacher.device) for split, table in tables.items()}
        self._render = teacher.renderer(images.image_shape)

    def __call__(self, block: BlockRows, progress: Callable[[int], None]) -> np.ndarray:
        parts, first = [], block.start
        while first < block.stop:
            stop = min(first + self._batch_size, block.stop)
            try:
                parts.append(self._logits(block.split, first, stop))
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            progress(stop - block.start)
            first = stop
        return torch.cat(parts).cpu().numpy()

    def _logits(self, split: str, first: int, stop: int) -> torch.Tensor:
        images, views = self._images[split], self._views[split]
        rows = torch.arange(first, stop, device=images.device)
        image_index = rows // views.shape[1]
        return self._teacher.logits(self._render(images[image_index], views[image_index, rows % views.shape[1]]))

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch, from here to the end of the run."""
        if self._batch_size == 1:
            device, reason = self._teacher.device, str(error).splitlines()[0]
            raise InputError(f"memory on {device} for one view", f"too little ({reason})", "use another --device") from error
        self._batch_size //= 2
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()
