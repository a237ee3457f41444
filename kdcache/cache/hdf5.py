"""The cache as an HDF5 file: lays it out and parses it. The only module that imports h5py.

    manifest               JSON: all that shaped the numbers; its SHA-256 is the fingerprint
    block_crc32            uint32, one a block of logits
    SPLIT/logits           float16 (N, V, C), raw
    SPLIT/views            int16 (N, V, 5): top, left, height, width, flip in the image's own pixels
    SPLIT/labels           int64 (N,)
    SPLIT/image_crc32      uint32 (N,), of each image's pixels and label

with SPLIT one of train, validation, test. Every dataset is contiguous, allocated when the file is
made and without filters, so that logits can be written and mapped outside libhdf5. See
docs/format.md.
"""

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# libhdf5 reads this when it is loaded: no file can then make it load a plug-in.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
import h5py

from kdcache.cache.checks import fault_in_rows
from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import USER_BLOCK, Extent, Layout, prepared_digest
from kdcache.config import SPLITS
from kdcache.errors import CacheDamagedError, OptionError
from kdcache.runtime import reserve

VIEW_DTYPE = np.dtype("<i2")
LABEL_DTYPE = np.dtype("<i8")
CRC_DTYPE = np.dtype("<u4")
LOGITS_DTYPE = np.dtype("<f2")

_SLACK = 1 << 16  # bytes, more than libhdf5 needs for its own structure


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of a dataset."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """In bytes. A Python integer: a forged manifest may name sizes beyond 64 bits."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredArray:
    """Where a dataset's bytes start in the file, and what they are."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


def create_file(
    path: Path, manifest: Manifest, arrays: dict[str, np.ndarray], block_rows: int
) -> None:
    """Make a cache at `path` that lacks nothing but its logits, their checksums and the seal.

    Args:
        arrays: 'SPLIT/views', 'SPLIT/labels' and 'SPLIT/image_crc32' of every split.
        block_rows: views whose logits make up one block.

    Raises OptionError where the arrays hold what no cache can, and OSError where the disk has no
    room for all of it.
    """
    for split in SPLITS:
        views, labels = arrays[f"{split}/views"], arrays[f"{split}/labels"]
        fault = fault_in_rows(manifest, split, views, labels)
        if fault is not None:
            expected = "views that show the image, and labels of its classes"
            raise OptionError(expected, fault, "correct --augment or the dataset")
    specs = _specs(manifest, block_rows)
    arrays = arrays | {"manifest": np.frombuffer(manifest.to_bytes(), "u1")}
    path.unlink(missing_ok=True)
    # A full disk makes libhdf5 segfault, so the room is asked for before it writes.
    with _open_for_writing(path) as fd:
        reserve(fd, USER_BLOCK + sum(spec.size for spec in specs.values()) + _SLACK)
    extents = _lay_out(path, specs, arrays)
    with _open_for_writing(path) as fd:
        size = os.fstat(fd).st_size
        reserve(fd, size)
        layout = Layout(
            size,
            block_rows * manifest.row_bytes,
            extents["manifest"],
            extents["block_crc32"],
            tuple(extents[f"{split}/logits"] for split in SPLITS),
        )
        layout = replace(layout, digest=prepared_digest(fd, layout))
        os.pwrite(fd, layout.pack(), 0)
        os.fsync(fd)


def parse_file(
    path: Path, opened: BinaryIO, manifest: Manifest, layout: Layout
) -> dict[str, StoredArray]:
    """Where all datasets are, after checking that HDF5 sees exactly what manifest and layout say.

    Nothing is read or allocated of the datasets themselves.

    Args:
        path: for messages only; another cache may bear it by now.
        opened: the file, whose seal has been checked.
        layout: that of the file, which `check_layout` has compared with the manifest.

    Raises CacheDamagedError where anything is otherwise.
    """
    specs = _specs(manifest, layout.block_bytes // manifest.row_bytes)
    with _refusing_parse_errors(path), h5py.File(opened, "r") as file:
        names = _dataset_names(path, file)
        if names != specs.keys():
            raise _unexpected(path, f"datasets {', '.join(sorted(names ^ specs.keys()))}")
        extents = {name: _extent(path, file, name, spec) for name, spec in specs.items()}
    announced = {"manifest": layout.manifest, "block_crc32": layout.block_crc32}
    for split, extent in zip(SPLITS, layout.logits, strict=True):
        announced[f"{split}/logits"] = extent
    for name, extent in extents.items():
        if extent.end > layout.file_size or extent != announced.get(name, extent):
            raise _unexpected(path, f"{name} elsewhere than its layout record says")
    return {
        name: StoredArray(extents[name].offset, spec.shape, spec.dtype)
        for name, spec in specs.items()
    }


def _specs(manifest: Manifest, block_rows: int) -> dict[str, ArraySpec]:
    """Every dataset of a cache with this manifest, in the order in which they lie in the file."""
    splits = {}
    blocks = 0
    for name in SPLITS:
        rows, views = manifest.splits[name].rows, manifest.splits[name].views
        blocks += -(-rows * views // block_rows)
        splits |= {
            f"{name}/logits": ArraySpec((rows, views, manifest.teacher.classes), LOGITS_DTYPE),
            f"{name}/views": ArraySpec((rows, views, 5), VIEW_DTYPE),
            f"{name}/labels": ArraySpec((rows,), LABEL_DTYPE),
            f"{name}/image_crc32": ArraySpec((rows,), CRC_DTYPE),
        }
    return {
        "manifest": ArraySpec((len(manifest.to_bytes()),), np.dtype("u1")),
        "block_crc32": ArraySpec((blocks,), CRC_DTYPE),
        **splits,
    }


def _lay_out(
    path: Path, specs: dict[str, ArraySpec], arrays: dict[str, np.ndarray]
) -> dict[str, Extent]:
    """Make all datasets in a file whose room is reserved, and fill those that are in `arrays`."""
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_layout(h5py.h5d.CONTIGUOUS)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    extents = {}
    with (
        _ReservedFile(path, "r+b") as reserved,
        h5py.File(reserved, "w", libver=("earliest", "v110"), userblock_size=USER_BLOCK) as file,
    ):
        for name, spec in specs.items():
            # Without times, so that equal caches are equal byte for byte.
            dataset = file.create_dataset(
                name, spec.shape, spec.dtype, dcpl=contiguous.copy(), track_times=False
            )
            extents[name] = Extent(dataset.id.get_offset(), dataset.id.get_storage_size())
            if name in arrays:
                dataset[...] = arrays[name]
    return extents


@contextmanager
def _open_for_writing(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


class _ReservedFile(io.FileIO):
    """A file with room set aside, which libhdf5 takes for an empty one.

    Given the path, libhdf5 would truncate the file, and another program could take the room before
    it is written.
    """

    _end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(self._end) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, data: Any) -> int:
        count = super().write(data)
        self._end = max(self._end, self.tell())
        return count


def _dataset_names(path: Path, file: h5py.File) -> set[str]:
    """Paths of all that is in the file but the splits' groups themselves."""
    names = _hard_links(path, file)
    for split in SPLITS:
        if split not in names:
            raise _unexpected(path, f"no {split}")
        group = file[split]
        if not isinstance(group, h5py.Group):
            raise _unexpected(path, f"{split}, which is not a group")
        names |= {f"{split}/{member}" for member in _hard_links(path, group, split)}
    return names - set(SPLITS)


def _hard_links(path: Path, group: h5py.Group, name: str = "") -> set[str]:
    """Names of a group's members, none of which may lead elsewhere."""
    for member in group:
        if type(group.get(member, getlink=True)) is not h5py.HardLink:
            found = f"{name}/{member}".lstrip("/")
            raise _unexpected(path, f"{found}, which is not a hard link")
    return set(group)


def _extent(path: Path, file: h5py.File, name: str, spec: ArraySpec) -> Extent:
    """Where a dataset's bytes are; they must be plainly there, in this file."""
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise _unexpected(path, f"{name}, which is not a dataset")
    contiguous = dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    plain = contiguous and not dataset.external
    extent = Extent(dataset.id.get_offset() or 0, spec.size)
    allocated = dataset.id.get_storage_size() == extent.size and extent.offset >= USER_BLOCK
    if (dataset.shape, dataset.dtype) != (spec.shape, spec.dtype) or not plain or not allocated:
        raise _unexpected(path, f"{name} as {dataset.shape} {dataset.dtype}")
    return extent


@contextmanager
def _refusing_parse_errors(path: Path) -> Iterator[None]:
    """Refuse a file of whose structure libhdf5 or h5py can make nothing."""
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
        found = f"a structure that HDF5 cannot read ({type(error).__name__})"
        raise _unexpected(path, found) from error


def _unexpected(path: Path, found: str) -> CacheDamagedError:
    return CacheDamagedError(
        "the datasets that the manifest announces", f"{path} with {found}", "do not use this file"
    )
