"""Opens a cache: checks that it is whole, and loads or maps what is in it."""

import dataclasses
import hashlib
import math
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from kdcache.cache.checks import are_finite, check_layout, fault_in_rows
from kdcache.cache.hdf5 import CRC_DTYPE, StoredArray, parse_file
from kdcache.cache.journal import partial_path
from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import Layout, check_seal, damaged, read_layout
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
    SHA-256 in its seal: what it holds. The logits have a part in that through their own SHA-256,
    in format 1 through their CRC32s.

    Several caches of the same images and views are one, too: `members` are they, both digests
    theirs joined by "+", and the rest is the first one's.
    """

    path: Path
    manifest: Manifest
    fingerprint: str
    content_digest: str
    splits: dict[str, CacheSplit]
    members: tuple["Cache", ...] = ()


def open_caches(paths: Sequence[Path], *, check_logits: bool = True) -> Cache:
    """Open one cache, or several of the same images and views as one.

    Raises as `open_cache` does, and DataError where they differ in images, labels or views.
    """
    caches = [open_cache(path, check_logits=check_logits) for path in paths]
    first = caches[0]
    for other in caches[1:]:
        fault = _difference(first, other)
        if fault is not None:
            expected = f"caches of the same images and views as {first.path}"
            remedy = "give phase one the same --data, --augment, --views and --seed"
            raise DataError(expected, f"{other.path} with other {fault}", remedy)
    if len(caches) == 1:
        return first
    return dataclasses.replace(
        first,
        fingerprint="+".join(cache.fingerprint for cache in caches),
        content_digest="+".join(cache.content_digest for cache in caches),
        members=tuple(caches),
    )


def _difference(one: Cache, other: Cache) -> str | None:
    """In what two caches differ beside their teachers."""
    if one.manifest.dataset.class_names != other.manifest.dataset.class_names:
        return "classes"
    for split in SPLITS:
        ours, theirs = one.splits[split], other.splits[split]
        if not np.array_equal(ours.labels, theirs.labels):
            return f"{split} labels"
        if not np.array_equal(ours.image_crc32, theirs.image_crc32):
            return f"{split} images"
        if not np.array_equal(ours.views, theirs.views):
            return f"{split} views"
    return None


def open_cache(path: Path, *, check_logits: bool = True, in_memory: bool | None = None) -> Cache:
    """Open a sealed cache for reading.

    Args:
        check_logits: also read the logits: the CRC32 of every block, and that all are finite.
        in_memory: load the logits (True), map them (False), or load them when they take less than
            half of the machine's memory (None).

    Raises DataError where the file is missing, unfinished or not a cache, and CacheDamagedError
    where its bytes are not the ones that were written, or its numbers none that a cache can have.
    """
    return _open(path, "crc32" if check_logits else "nothing", in_memory)


def verify_cache(path: Path) -> Cache:
    """Open a cache once every byte of it is checked, the SHA-256 of its logits included.

    Raises as `open_cache` does, naming the first part that is damaged.
    """
    return _open(path, "sha256", None)


def _open(
    path: Path, check: Literal["nothing", "crc32", "sha256"], in_memory: bool | None
) -> Cache:
    with _opened(path) as fd, os.fdopen(os.dup(fd), "rb", buffering=0) as file:
        name = str(path)  # only for messages: another cache may bear it by now
        layout = read_layout(fd, name)
        seal = check_seal(fd, layout, name)
        manifest = read_manifest(fd, layout, name)
        if check != "nothing":
            sha = hashlib.sha256()
            for data in _checked_blocks(fd, layout, name):
                if check == "sha256":
                    sha.update(data)
            # A CRC32 stays the same where four bytes are chosen to that end.
            if check == "sha256" and layout.version > 1 and sha.digest() != seal.logits:
                raise damaged(name, "the logits: their SHA-256 is not the one that was sealed")
        # Only now, that every byte is right, does libhdf5 see the file: damage can crash it.
        arrays = parse_file(path, file, manifest, layout)
        if in_memory is None:
            in_memory = fits_in_memory(sum(extent.size for extent in layout.logits))
        splits = {split: _load_split(file, arrays, split, in_memory) for split in SPLITS}
    for split, part in splits.items():
        fault = fault_in_rows(manifest, split, part.views, part.labels)
        if fault is not None:
            raise damaged(name, fault)
    return Cache(path, manifest, manifest.fingerprint, seal.digest.hex(), splits)


def read_sealed_manifest(path: Path) -> Manifest:
    """The manifest of a sealed cache, with every checksum but those of the logits checked.

    Raises as `open_cache` does.
    """
    with _opened(path) as fd:
        layout = read_layout(fd, str(path))
        check_seal(fd, layout, str(path))
        return read_manifest(fd, layout, str(path))


def read_manifest(fd: int, layout: Layout, name: str) -> Manifest:
    """The manifest of a file whose layout has been checked, read without libhdf5.

    Raises CacheDamagedError where it is none, or announces other sizes than the layout.
    """
    try:
        manifest = Manifest.parse(os.pread(fd, layout.manifest.size, layout.manifest.offset))
        check_layout(layout, manifest)
    except ValueError as error:
        raise damaged(name, f"its manifest ({error})") from error
    return manifest


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


def _checked_blocks(fd: int, layout: Layout, name: str) -> Iterator[bytes]:
    """The bytes of every block, which are those that were written, and finite logits."""
    table = os.pread(fd, layout.block_crc32.size, layout.block_crc32.offset)
    expected = np.frombuffer(table, CRC_DTYPE)
    for number, (block, crc32) in enumerate(zip(layout.blocks(), expected, strict=True)):
        data = os.pread(fd, block.size, block.offset)
        place = f"block {number} of the logits (bytes {block.offset} to {block.end - 1})"
        if zlib.crc32(data) != crc32:
            raise damaged(name, place)
        if not are_finite(data):
            raise damaged(name, f"{place}: NaN or infinity")
        yield data


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
