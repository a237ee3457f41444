"""TODO cache.reader."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kdcache.cache.hdf5 import CRC_DTYPE, dataset_table, parse
from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import Layout, block_crc32, check_seal, damaged, read_layout
from kdcache.config import SPLITS
from kdcache.errors import KdcacheError
from kdcache.runtime import fits_in_memory


@dataclass(frozen=True)
class CacheSplit:
    """One split of a cache; row i of every array belongs to image_index i."""

    logits: np.ndarray  # float16 (N, V, C)
    views: np.ndarray  # int16 (N, V, 5)
    labels: np.ndarray  # int64 (N,)
    image_crc32: np.ndarray  # uint32 (N,)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Cache:
    """A complete, checked cache."""

    path: Path
    manifest: Manifest
    fingerprint: str
    splits: dict[str, CacheSplit]


def read_manifest(fd: int, layout: Layout, name: str) -> Manifest:
    """The manifest of a file whose layout has been checked, read without libhdf5."""
    try:
        return Manifest.parse(os.pread(fd, layout.manifest.size, layout.manifest.offset))
    except ValueError as error:
        raise damaged(name, f"its manifest ({error})") from error


def read_fingerprint(path: Path) -> tuple[Manifest, str]:
    """Manifest and fingerprint of a sealed cache, with every checksum but those of the logits checked."""
    with _opened(path) as fd:
        layout = read_layout(fd, str(path))
        check_seal(fd, layout, str(path))
        manifest = read_manifest(fd, layout, str(path))
    return manifest, manifest.fingerprint


def open_cache(path: Path, *, check_logits: bool = True, in_memory: bool | None = None) -> Cache:
    """Open a sealed cache for reading.

    Args:
        check_logits: also check the CRC32 of every block of logits.
        in_memory: load the logits (True), map them (False), or load them when they take less than half of
            the machine's memory (None).

    Raises KdcacheError where the file is missing, damaged, unfinished or not a cache.
    """
    with _opened(path) as fd, os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        name = str(path)  # only for messages: another cache may bear it by now
        layout = read_layout(fd, name)
        check_seal(fd, layout, name)
        manifest = read_manifest(fd, layout, name)
        if check_logits:
            _check_blocks(fd, layout, name)
        offsets = parse(path, file, manifest, layout)
        if in_memory is None:
            in_memory = fits_in_memory(sum(extent.size for extent in layout.logits))
        splits = {split: _load_split(file, manifest, split, offsets, in_memory) for split in SPLITS}
    return Cache(path, manifest, manifest.fingerprint, splits)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        unfinished = Path(f"{path}.partial").exists()
        raise KdcacheError(
            "a finished cache",
            f"{path}: {'unfinished' if unfinished else error.strerror}",
            "run precompute_teacher.py again with the same options"
            if unfinished
            else "run precompute_teacher.py first",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise KdcacheError(
                "a cache file", f"{path}, which is not a file", "give the path of the .h5 file"
            )
        yield fd
    finally:
        os.close(fd)


def _check_blocks(fd: int, layout: Layout, name: str) -> None:
    expected = np.frombuffer(
        os.pread(fd, layout.block_crc32.size, layout.block_crc32.offset), CRC_DTYPE
    )
    for number, (block, crc) in enumerate(zip(layout.blocks(), expected, strict=True)):
        if block_crc32(fd, block) != crc:
            raise damaged(
                name, f"block {number} of the logits (bytes {block.offset} to {block.end - 1})"
            )


def _load_split(
    file: BinaryIO, manifest: Manifest, split: str, offsets: dict[str, int], in_memory: bool
) -> CacheSplit:
    table = dataset_table(manifest, 1)

    def load(member: str, into_memory: bool = True) -> np.ndarray:
        name = f"{split}/{member}"
        shape, dtype = table[name]
        if into_memory:
            file.seek(offsets[name])
            return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
        return np.memmap(file, dtype, "c", offsets[name], shape)  # c: the file is never written

    return CacheSplit(load("logits", in_memory), load("views"), load("labels"), load("image_crc32"))
