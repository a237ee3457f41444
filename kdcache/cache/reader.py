"""Opens a cache: checks that it is whole, and loads or maps what is in it."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kdcache.cache.hdf5 import CRC_DTYPE, StoredArray, parse_file
from kdcache.cache.journal import partial_path
from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import Layout, block_crc32, check_seal, damaged, read_layout
from kdcache.config import SPLITS
from kdcache.errors import DataError
from kdcache.runtime import fits_in_memory


@dataclass(frozen=True)
class CacheSplit:
    """One split of a cache; row i of every array belongs to image_index i.

    Attributes:
        logits: float16 `(N, V, C)`, the teacher's raw logits.
        views: int16 `(N, V, 5)`: top, left, height, width, flip in the image's own pixels.
        labels: int64 `(N,)`.
        image_crc32: uint32 `(N,)`, of each image's pixels and label.
    """

    logits: np.ndarray
    views: np.ndarray
    labels: np.ndarray
    image_crc32: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Cache:
    """A complete, checked cache.

    `fingerprint` is the digest of its manifest: what it should hold. `content_digest` is the
    SHA-256 in its seal: what it holds. The logits have a part in that through their CRC32s.
    """

    path: Path
    manifest: Manifest
    fingerprint: str
    content_digest: str
    splits: dict[str, CacheSplit]


def open_cache(path: Path, *, check_logits: bool = True, in_memory: bool | None = None) -> Cache:
    """Open a sealed cache for reading.

    Args:
        check_logits: also check the CRC32 of every block of logits.
        in_memory: load the logits (True), map them (False), or load them when they take less than
            half of the machine's memory (None).

    Raises DataError where the file is missing, unfinished or not a cache, and CacheDamagedError
    where its bytes are not the ones that were written.
    """
    with _opened(path) as fd, os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        name = str(path)  # only for messages: another cache may bear it by now
        layout = read_layout(fd, name)
        content_digest = check_seal(fd, layout, name).hex()
        manifest = read_manifest(fd, layout, name)
        if check_logits:
            _check_blocks(fd, layout, name)
        # Only now, that every byte is right, does libhdf5 see the file: damage can crash it.
        arrays = parse_file(path, file, manifest, layout)
        if in_memory is None:
            in_memory = fits_in_memory(sum(extent.size for extent in layout.logits))
        splits = {split: _load_split(file, arrays, split, in_memory) for split in SPLITS}
    return Cache(path, manifest, manifest.fingerprint, content_digest, splits)


def read_sealed_manifest(path: Path) -> Manifest:
    """The manifest of a sealed cache, with every checksum but those of the logits checked.

    Raises as `open_cache` does.
    """
    with _opened(path) as fd:
        layout = read_layout(fd, str(path))
        check_seal(fd, layout, str(path))
        return read_manifest(fd, layout, str(path))


def read_manifest(fd: int, layout: Layout, name: str) -> Manifest:
    """The manifest of a file whose layout has been checked, read without libhdf5."""
    try:
        return Manifest.parse(os.pread(fd, layout.manifest.size, layout.manifest.offset))
    except ValueError as error:
        raise damaged(name, f"its manifest ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        found, remedy = error.strerror, "run precompute_teacher.py first"
        if partial_path(path).exists():
            found, remedy = "unfinished", "run precompute_teacher.py again with the same options"
        raise DataError("a finished cache", f"{path}: {found}", remedy) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DataError(
                "a cache file", f"{path}, which is not a file", "give the path of the .h5 file"
            )
        yield fd
    finally:
        os.close(fd)


def _check_blocks(fd: int, layout: Layout, name: str) -> None:
    table = os.pread(fd, layout.block_crc32.size, layout.block_crc32.offset)
    expected = np.frombuffer(table, CRC_DTYPE)
    for number, (block, crc32) in enumerate(zip(layout.blocks(), expected, strict=True)):
        if block_crc32(fd, block) != crc32:
            place = f"bytes {block.offset} to {block.end - 1}"
            raise damaged(name, f"block {number} of the logits ({place})")


def _load_split(
    file: BinaryIO, arrays: dict[str, StoredArray], split: str, in_memory: bool
) -> CacheSplit:
    logits = arrays[f"{split}/logits"]
    return CacheSplit(
        _load(file, logits) if in_memory else _map(file, logits),
        _load(file, arrays[f"{split}/views"]),
        _load(file, arrays[f"{split}/labels"]),
        _load(file, arrays[f"{split}/image_crc32"]),
    )


def _load(file: BinaryIO, array: StoredArray) -> np.ndarray:
    file.seek(array.offset)
    return np.fromfile(file, array.dtype, math.prod(array.shape)).reshape(array.shape)


def _map(file: BinaryIO, array: StoredArray) -> np.ndarray:
    # "c": what is changed in memory stays there; the file is never written.
    return np.memmap(file, array.dtype, "c", array.offset, array.shape)
