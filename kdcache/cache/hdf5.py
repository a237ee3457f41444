"""The cache file: lays it out as HDF5, opens it, checks it and loads it. The only module that imports h5py.

    manifest               JSON: all that shaped the numbers; its SHA-256 is the fingerprint
    block_crc32            uint32, one a block of logits
    SPLIT/logits           float16 (N, V, C), raw
    SPLIT/views            int16 (N, V, 5): top, left, height, width, flip in the image's own pixels
    SPLIT/labels           int64 (N,)
    SPLIT/image_crc32      uint32 (N,), of each image's pixels and label

with SPLIT one of train, validation, test. Every dataset is contiguous, allocated when the file is made and
without filters, so that logits can be written and mapped outside libhdf5. See docs/format.md.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

os.environ["HDF5_PLUGIN_PRELOAD"] = (
    "::"  # read by libhdf5 when it is loaded: no file can load a plug-in
)
import h5py

from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import USER_BLOCK, Extent, Layout, damaged, prepared_digest
from kdcache.config import SPLITS
from kdcache.errors import CacheDamagedError

VIEW_DTYPE, LABEL_DTYPE, CRC_DTYPE, LOGITS_DTYPE = (
    np.dtype(code) for code in ("<i2", "<i8", "<u4", "<f2")
)


def dataset_table(
    manifest: Manifest, block_rows: int
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Path, shape and type of every dataset of a cache with this manifest."""
    classes = manifest.teacher.classes
    table = {"manifest": ((len(manifest.to_bytes()),), np.dtype("u1")), "block_crc32": None}
    blocks = 0
    for split in SPLITS:
        rows, views = manifest.splits[split].rows, manifest.splits[split].views
        blocks += -(-rows * views // block_rows)
        table |= {
            f"{split}/logits": ((rows, views, classes), LOGITS_DTYPE),
            f"{split}/views": ((rows, views, 5), VIEW_DTYPE),
            f"{split}/labels": ((rows,), LABEL_DTYPE),
            f"{split}/image_crc32": ((rows,), CRC_DTYPE),
        }
    table["block_crc32"] = ((blocks,), CRC_DTYPE)
    return table


def create(
    path: Path, manifest: Manifest, arrays: dict[str, np.ndarray], block_rows: int
) -> Layout:
    """Make a cache at `path` that lacks nothing but its logits, their checksums and the seal.

    Args:
        arrays: 'SPLIT/views', 'SPLIT/labels' and 'SPLIT/image_crc32' of every split.
        block_rows: views whose logits make up one block.

    Raises OSError where the disk has no room for all of it.
    """
    table = dataset_table(manifest, block_rows)
    arrays = arrays | {"manifest": np.frombuffer(manifest.to_bytes(), "u1")}
    needed = USER_BLOCK + sum(math.prod(shape) * dtype.itemsize for shape, dtype in table.values())
    path.unlink(missing_ok=True)
    _reserve(
        path, needed + (1 << 16)
    )  # a full disk makes libhdf5 segfault, so ask before it writes
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_layout(h5py.h5d.CONTIGUOUS)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with (
        _Reserved(path, "r+b") as reserved,
        h5py.File(reserved, "w", libver=("earliest", "v110"), userblock_size=USER_BLOCK) as file,
    ):
        extents = {}
        for name, (shape, dtype) in table.items():
            dataset = file.create_dataset(
                name, shape, dtype, dcpl=contiguous.copy(), track_times=False
            )
            extents[name] = Extent(dataset.id.get_offset(), dataset.id.get_storage_size())
            if name in arrays:
                dataset[...] = arrays[name]
    size = path.stat().st_size
    _reserve(path, size)
    layout = Layout(
        size,
        block_rows * manifest.teacher.classes * LOGITS_DTYPE.itemsize,
        extents["manifest"],
        extents["block_crc32"],
        tuple(extents[f"{split}/logits"] for split in SPLITS),
    )
    return _write_layout(path, layout)


def _write_layout(path: Path, layout: Layout) -> Layout:
    fd = os.open(path, os.O_RDWR)
    try:
        layout = Layout(**(vars(layout) | {"digest": prepared_digest(fd, layout)}))
        os.pwrite(fd, layout.pack(), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    return layout


class _Reserved(io.FileIO):
    """A file with room set aside, which libhdf5 takes for an empty one.

    Given the path, libhdf5 would truncate the file, and another program could take the room before it is written.
    """

    _end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._end) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._end = max(self._end, self.tell())
        return count


def _reserve(path: Path, size: int) -> None:
    """Have the file system set aside `size` bytes for the file, where it can."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def parse(path: Path, opened: BinaryIO, manifest: Manifest, layout: Layout) -> dict[str, int]:
    """Offsets of all datasets, after checking that HDF5 sees exactly what manifest and layout say."""
    row_bytes = manifest.teacher.classes * LOGITS_DTYPE.itemsize
    if len(layout.logits) != len(SPLITS) or layout.block_bytes % row_bytes:
        raise damaged(str(path), "its layout record")
    table = dataset_table(manifest, layout.block_bytes // row_bytes)
    with _refusing_parse_errors(path), h5py.File(opened, "r") as file:
        members = _hard_links(path, file)
        for split in SPLITS:
            if split not in members:
                raise _unexpected(path, f"no {split}")
            members |= {f"{split}/{member}" for member in _hard_links(path, file[split])}
        if members - set(SPLITS) != table.keys():
            raise _unexpected(
                path, f"datasets {', '.join(sorted((members - set(SPLITS)) ^ table.keys()))}"
            )
        extents = {name: _extent(path, file[name], *described) for name, described in table.items()}
    expected = {
        f"{split}/logits": extent for split, extent in zip(SPLITS, layout.logits, strict=True)
    }
    expected |= {"manifest": layout.manifest, "block_crc32": layout.block_crc32}
    for name, extent in extents.items():
        if extent.end > layout.file_size or extent != expected.get(name, extent):
            raise _unexpected(path, f"{name} elsewhere than its layout record says")
    return {name: extent.offset for name, extent in extents.items()}


def _hard_links(path: Path, group: h5py.Group) -> set[str]:
    """Names of a group's members, none of which may lead elsewhere."""
    for member in group:
        if type(group.get(member, getlink=True)) is not h5py.HardLink:
            raise _unexpected(path, f"{group.name.rstrip('/')}/{member}, which is not a hard link")
    return set(group)


def _extent(path: Path, dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype) -> Extent:
    """Where a dataset's bytes are; they must be plainly there, in this file."""
    plain = (
        dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and not dataset.external
    )
    extent = Extent(dataset.id.get_offset() or 0, math.prod(shape) * dtype.itemsize)
    allocated = dataset.id.get_storage_size() == extent.size and extent.offset >= USER_BLOCK
    if (dataset.shape, dataset.dtype) != (shape, dtype) or not plain or not allocated:
        raise _unexpected(path, f"{dataset.name.lstrip('/')} as {dataset.shape} {dataset.dtype}")
    return extent


@contextmanager
def _refusing_parse_errors(path: Path) -> Iterator[None]:
    """What libhdf5 makes of a file whose structure was tampered with."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise _unexpected(
            path, f"a structure that HDF5 cannot read ({type(error).__name__})"
        ) from error


def _unexpected(path: Path, found: str) -> CacheDamagedError:
    return CacheDamagedError(
        "the datasets that the manifest announces", f"{path} with {found}", "do not use this file"
    )
