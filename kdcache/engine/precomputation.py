"""Phase one: run the frozen teacher once over every view of every image and store its raw
logits.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from kdcache.cache import BlockRows, CacheWriter, Manifest
from kdcache.config import SPLITS, PrecomputeOptions
from kdcache.data import ImageData, Prefetcher, draw_views
from kdcache.engine.teacher import Teacher
from kdcache.errors import OptionError
from kdcache.models import state_digest
from kdcache.runtime import SINGLE_PROCESS, CoreWatch, Processes, to_cpu_async

_BLOCK_BYTES = 2 << 20
_BLOCK_ROWS = 1024  # at most: what one kill can cost


def make_manifest(teacher: Teacher, images: ImageData, options: PrecomputeOptions) -> Manifest:
    """All that shapes the numbers. A path or a batch size does not, so they are not in it."""
    model = teacher.model
    device = teacher.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(teacher.device)
    views = {split: options.views if split == "train" else 1 for split in SPLITS}
    names = model.preprocessing.class_names if model.output == "logits" else ()
    # absent for logits: the manifest, and so the fingerprint, is that of older versions
    output = {} if model.output == "logits" else {"output": model.output}
    document = {
        "dataset": {
            "name": images.name,
            "class_names": list(images.class_names),
            "image_shape": list(images.image_shape),
            "limit": images.limit,
            "store_size": images.store_size if images.name == "folder" else None,
            "split_seed": images.split_seed,
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
            "class_names": list(names) or None,
            **output,
        },
        "input": {
            "image_size": model.preprocessing.image_size,
            "interpolation": f"{model.preprocessing.interpolation}, antialiased",
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
    try:
        return Manifest.from_json(document)
    except ValueError as error:
        expected = "a teacher and images of which a cache can be made"
        raise OptionError(expected, str(error), "give other ones") from error


def view_tables(images: ImageData, options: PrecomputeOptions) -> dict[str, np.ndarray]:
    """int16 `(N, V, 5)` for each split.

    Only the training split has more views than the whole image.
    """
    height, width = images.image_shape
    tables = {}
    for split, part in images.splits.items():
        views = options.views if split == "train" else 1
        tables[split] = draw_views(
            options.augment, len(part), height, width, views=views, seed=options.seed, stream=split
        )
    return tables


@dataclass(frozen=True)
class PrecomputeReport:
    """What phase one did: the whole cache's rows and bytes, and what this process computed.

    A row is one view of one image. `already_complete`: the cache was there, and nothing was
    computed.
    """

    rows: int
    bytes: int
    already_complete: bool
    computed: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        return self.computed / self.seconds


def precompute(
    teacher: Teacher,
    images: ImageData,
    options: PrecomputeOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
    processes: Processes = SINGLE_PROCESS,
) -> PrecomputeReport:
    """Fill the cache `options.cache`, or what an interrupted run left of it, and seal it.

    Args:
        progress: called with (rows finished, rows in all) of this process after each batch.
        processes: fill one cache together, each its own blocks.

    Raises OptionError where the path holds another cache, DataError where the teacher's logits are
    not finite or the disk is full.
    """
    tables = view_tables(images, options)
    manifest = make_manifest(teacher, images, options)
    block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (2 * teacher.classes)))
    total = sum(len(table) * table.shape[1] for table in tables.values())
    started, computed = time.perf_counter(), 0
    writer = CacheWriter(
        options.cache,
        manifest,
        _columns(images, tables),
        block_rows=block_rows,
        restart=options.restart,
        processes=processes,
    )
    with writer, _WriteBehind(writer) as behind:
        own = sum(len(writer.rows(block)) for block in writer.missing)
        before = total - own if processes.world_size == 1 else 0

        def report(done: int) -> None:
            progress(before + done, before + own)

        runner = _BlockRunner(teacher, images, tables, options.batch_size or teacher.batch_size)
        try:
            for block, logits in runner.blocks(writer, report):
                behind.write(block, logits)
                computed += len(writer.rows(block))
            behind.wait()
        except KeyboardInterrupt:
            behind.wait()
            saved = f"{before + computed:,} rows are saved"
            raise KeyboardInterrupt(f"{saved}; the same command goes on") from None
        if not writer.complete:
            writer.seal()
    seconds, size = time.perf_counter() - started, options.cache.stat().st_size
    return PrecomputeReport(total, size, writer.complete, computed, seconds)


def _columns(images: ImageData, tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a cache holds beside the logits, by the names of its datasets."""
    columns: dict[str, np.ndarray] = {}
    for split, part in images.splits.items():
        columns[f"{split}/views"] = tables[split]
        columns[f"{split}/labels"] = part.labels.numpy()
        columns[f"{split}/image_crc32"] = part.row_checksums()
    return columns


class _WriteBehind:
    """Writes one block in a thread while the teacher computes the next.

    On a GPU the thread also waits for the logits, so that the teacher's queue there never runs
    empty.
    """

    def __init__(self, writer: CacheWriter) -> None:
        self._writer = writer
        self._pending: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1)

    def write(self, block: int, logits: Tensor) -> None:
        """Begin to write a block, once the one before is on the disk.

        Raises what went wrong with the one before.

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
        self._cores = CoreWatch(teacher.device)

    def blocks(
        self, writer: CacheWriter, progress: Callable[[int], None]
    ) -> Iterator[tuple[int, Tensor]]:
        """The missing blocks, each with its logits float32 `(rows, C)` on the device.

        Args:
            progress: called with the number of rows that the teacher was given so far.
        """
        done = 0
        for split, group in groupby(writer.missing, lambda block: writer.rows(block).split):
            blocks = list(group)
            sizes = {block: self._batch_sizes(len(writer.rows(block))) for block in blocks}
            batches = self._batches(split, [writer.rows(block) for block in blocks], sizes.values())
            for block in blocks:
                logits = []
                for size in sizes[block]:
                    logits.append(self._logits(*next(batches)))
                    done += size
                    progress(done)
                    self._cores.poll()
                yield block, torch.cat(logits)

    def _batches(
        self, split: str, places: list[BlockRows], sizes: Iterable[list[int]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 `(B, 3, H, W)` and views `(B, 5)` of some blocks, on the device."""
        table = self._views[split]
        rows = torch.cat([torch.arange(place.start, place.stop) for place in places])
        image_index, view_index = rows // table.shape[1], rows % table.shape[1]
        in_order = list(chain(*sizes))
        views = Prefetcher(table, self._teacher.device)
        return zip(
            self._images[split].batches(in_order, image_index),
            views.batches(in_order, image_index, view_index),
            strict=True,
        )

    def _logits(self, images: Tensor, views: Tensor) -> Tensor:
        while True:
            size = self._batch_size
            try:
                parts = zip(images.split(size), views.split(size), strict=True)
                return torch.cat([self._teacher.logits(self._render(*part)) for part in parts])
            except torch.OutOfMemoryError as error:
                self._halve(error)

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch, from here to the end of the run."""
        if self._batch_size == 1:
            device, reason = self._teacher.device, str(error).splitlines()[0]
            found = f"too little ({reason})"
            raise OptionError(
                f"memory on {device} for one view", found, "use another --device"
            ) from error
        self._batch_size //= 2
        if self._teacher.device.type == "cuda":
            torch.cuda.empty_cache()

    def _batch_sizes(self, count: int) -> list[int]:
        """`count` rows in batches, the last of which may be smaller."""
        largest = self._batch_size
        return [min(largest, count - first) for first in range(0, count, largest)]
