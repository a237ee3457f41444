"""Fills a cache so that nothing finished is ever lost: blocks, a journal, and the seal at the very end.

While it is being filled a cache is `NAME.h5.partial`. Its HDF5 structure is complete and never changes; the
logits are written over it with `pwrite`. A block counts as finished once a journal holds its CRC32, and the
file gets its final name when all blocks have been checked and the seal is on the disk.
"""

import fcntl
import glob
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcache.cache import hdf5 as cache_file
from kdcache.cache.manifest import Manifest
from kdcache.cache.seal import block_crc32, damaged, prepared_digest, read_layout, write_seal
from kdcache.config import SPLITS
from kdcache.errors import KdcacheError
from kdcache.runtime import SINGLE_PROCESS, Processes

# Block, CRC32 of its bytes; behind it the CRC32 of the layout's digest and these 8 bytes: a power loss can bring back the
# journal of another manifest, and its blocks of zeros would match the reserved space of a new file.
_RECORD = struct.Struct("<II")
_RECORD_CRC = struct.Struct("<I")
_RECORD_SIZE = _RECORD.size + _RECORD_CRC.size
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class BlockRows:
    """The views of one block: flat rows start..stop-1 of a split, row = image_index * views + view_index."""

    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class CacheWriter:
    """Writes one cache, going on where an earlier run of the same manifest stopped.

    Under torchrun every process makes one, with the same arguments, and fills its own share of the blocks.

    Args:
        path: the final name. Only files whose names begin with it are touched.
        manifest: all that shapes the numbers; a run is resumed only under an equal one.
        arrays: 'SPLIT/views', 'SPLIT/labels', 'SPLIT/image_crc32' of every split.
        block_rows: views in one block.
        restart: discard what an interrupted run left, and replace a finished cache of another manifest.

    Raises KdcacheError where `path` belongs to another manifest, another run is writing it, or the disk lacks room.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        arrays: dict[str, np.ndarray],
        *,
        block_rows: int,
        restart: bool = False,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.path = path
        self._processes = processes
        self._partial = Path(f"{path}.partial")
        self._fd = self._journal = -1
        self.missing: list[int] = []
        self.complete = processes.broadcast_object(lambda: _already_there(path, manifest, restart))
        if self.complete:
            processes.broadcast_object(self._remove_stale_journals)
            return
        try:
            processes.broadcast_object(lambda: self._begin(manifest, arrays, block_rows, restart))
            if not processes.is_main:
                self._open(manifest)
            self._layout = read_layout(self._fd, str(self._partial))
            self._seed = zlib.crc32(self._layout.digest)
            self._blocks = self._layout.blocks()
            self._rows = _rows_of_blocks(manifest, self._layout.block_bytes)
            finished = processes.broadcast_object(self._finished_blocks)
        except BaseException:
            self.close()
            raise
        missing = [block for block in range(len(self._blocks)) if block not in finished]
        self.missing = missing[processes.rank :: processes.world_size]

    def rows(self, block: int) -> BlockRows:
        return self._rows[block]

    def write(self, block: int, logits: np.ndarray) -> None:
        """Store the raw logits float `(rows, C)` of one block; when this returns they are on the disk.

        Raises KdcacheError where a logit is not finite or too large for float16.
        """
        where = self._rows[block]
        bad = ~(np.abs(logits) <= _FLOAT16_MAX)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise KdcacheError(
                f"finite teacher logits within +-{_FLOAT16_MAX:g}",
                f"{logits[row, column]} in class {column} of {where.split} row {where.start + row}",
                "try --precision fp32 or check the teacher's weights",
            )
        data = np.ascontiguousarray(logits, cache_file.LOGITS_DTYPE).tobytes()
        extent = self._blocks[block]
        if len(data) != extent.size:
            raise ValueError(f"expected {extent.size} bytes for block {block}, found {len(data)}")
        record = _RECORD.pack(block, zlib.crc32(data))
        with _refusing_os_errors(self.path):
            _write_all(self._fd, data, extent.offset)
            os.fdatasync(self._fd)
            _write_all(
                self._journal, record + _RECORD_CRC.pack(zlib.crc32(record, self._seed)), None
            )
            os.fdatasync(self._journal)

    def seal(self) -> None:
        """When all processes are here: check all blocks once more, seal the file and give it its name."""
        self._processes.barrier()
        with _refusing_os_errors(self.path):
            self._processes.broadcast_object(self._seal)

    def close(self) -> None:
        for fd in (self._fd, self._journal):
            if fd >= 0:
                os.close(fd)
        self._fd = self._journal = -1

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _seal(self) -> None:
        os.close(self._fd)  # opened anew, it shows what other machines wrote
        self._fd = os.open(self._partial, os.O_RDWR)
        finished = self._finished_blocks()
        lost = [block for block in range(len(self._blocks)) if block not in finished]
        if lost:
            raise damaged(
                str(self._partial), f"block {lost[0]}, which was right when it was written"
            )
        table = np.array(
            [finished[block] for block in range(len(self._blocks))], cache_file.CRC_DTYPE
        )
        _write_all(self._fd, table.tobytes(), self._layout.block_crc32.offset)
        write_seal(self._fd, self._layout)
        os.fsync(self._fd)
        os.rename(self._partial, self.path)
        _sync_folder(self.path.parent)
        for journal in self._journals():
            journal.unlink(missing_ok=True)
        _sync_folder(self.path.parent)

    def _remove_stale_journals(self) -> None:
        """Those of a run that was killed after it gave the file its name."""
        if not self._partial.exists():
            for journal in self._journals():
                with suppress(
                    KdcacheError, OSError
                ):  # a run that is about to replace the cache holds its lock
                    lock = self._locked(journal)
                    journal.unlink(missing_ok=True)
                    os.close(lock)

    def _begin(
        self,
        manifest: Manifest,
        arrays: dict[str, np.ndarray],
        block_rows: int,
        restart: bool,
    ) -> None:
        """In the first process: keep other runs away, and make the partial file or check the one that is there."""
        with _refusing_os_errors(self.path):
            _make_folder(self.path.parent)
            for journal in self._journals():
                os.close(self._locked(journal))
            self._journal = self._locked(self._journal_of(0))
            if restart or not self._partial.exists():
                self._make(manifest, arrays, block_rows)
            self._open(manifest)

    def _make(self, manifest: Manifest, arrays: dict[str, np.ndarray], block_rows: int) -> None:
        os.ftruncate(self._journal, 0)
        for journal in self._journals():
            if journal != self._journal_of(0):
                journal.unlink()
        self._partial.unlink(missing_ok=True)
        temporary = Path(f"{self._partial}.tmp")
        try:
            cache_file.create(temporary, manifest, arrays, block_rows)
            os.rename(temporary, self._partial)
        except BaseException:
            temporary.unlink(missing_ok=True)
            self._journal_of(0).unlink(missing_ok=True)
            raise

    def _open(self, manifest: Manifest) -> None:
        """Open the partial file, which must be intact and of this manifest, and this process's journal."""
        with _refusing_os_errors(self.path):
            if self._journal < 0:
                self._journal = self._locked(self._journal_of(self._processes.rank))
            size = os.fstat(self._journal).st_size
            os.ftruncate(self._journal, size - size % _RECORD_SIZE)  # a torn last record
            self._fd = os.open(self._partial, os.O_RDWR)
            _sync_folder(
                self.path.parent
            )  # the names of both: else a power loss could take finished blocks
        layout = read_layout(self._fd, str(self._partial))
        if prepared_digest(self._fd, layout) != layout.digest:
            raise KdcacheError(
                "an intact unfinished cache",
                f"{self._partial} damaged",
                "discard it with --restart",
            )
        _refuse_other(
            cache_file.read_manifest(self._fd, layout, str(self._partial)), manifest, self._partial
        )

    def _journal_of(self, rank: int) -> Path:
        return Path(f"{self._partial}.journal-{rank}")

    def _journals(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{glob.escape(self._partial.name)}.journal-*"))

    def _locked(self, journal: Path) -> int:
        """Open a journal; the lock on it is what keeps a second run away."""
        fd = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise KdcacheError(
                f"no other run writing {self.path}",
                "one that is still going on",
                "wait for it or give another --cache",
            ) from error
        if (
            os.fstat(fd).st_nlink == 0
        ):  # removed between the two calls: its lock would keep nobody away
            os.close(fd)
            return self._locked(journal)
        return fd

    def _finished_blocks(self) -> dict[int, int]:
        """Blocks whose bytes match a CRC32 in some process's journal, with it."""
        finished = {}
        for journal in self._journals():
            raw = journal.read_bytes()
            for offset in range(0, len(raw) - _RECORD_SIZE + 1, _RECORD_SIZE):
                block, crc = _RECORD.unpack_from(raw, offset)
                intact = _RECORD_CRC.unpack_from(raw, offset + _RECORD.size)[0] == zlib.crc32(
                    raw[offset : offset + _RECORD.size], self._seed
                )
                if (
                    intact
                    and block < len(self._blocks)
                    and block_crc32(self._fd, self._blocks[block]) == crc
                ):
                    finished[block] = crc
        return finished


@contextmanager
def _refusing_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KdcacheError(
            f"room and the right to write {path}",
            f"{error.strerror or error}",
            "free some space or give another --cache",
        ) from error


def _already_there(path: Path, manifest: Manifest, restart: bool) -> bool:
    """Whether `path` is the finished cache of this manifest; refuse one of another."""
    if restart or not path.exists():
        return False
    found, _ = cache_file.read_fingerprint(path)
    _refuse_other(found, manifest, path)
    return True


def _refuse_other(found: Manifest, manifest: Manifest, path: Path) -> None:
    faults = found.differences(manifest)
    if faults:
        raise KdcacheError(
            "the options that the cache was begun with",
            f"{path} with other ones ({'; '.join(faults[:3])})",
            "give another --cache, or --restart to discard what is there",
        )


def _rows_of_blocks(manifest: Manifest, block_bytes: int) -> list[BlockRows]:
    block_rows = block_bytes // (manifest.teacher.classes * cache_file.LOGITS_DTYPE.itemsize)
    rows = []
    for split in SPLITS:
        total = manifest.splits[split].rows * manifest.splits[split].views
        rows += [
            BlockRows(split, start, min(start + block_rows, total))
            for start in range(0, total, block_rows)
        ]
    return rows


def _write_all(fd: int, data: bytes, offset: int | None) -> None:
    """Write every byte, at `offset` or at the end; the kernel may take fewer at a time."""
    view = memoryview(data)
    while view:
        count = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view = view[count:]
        offset = None if offset is None else offset + count


def _make_folder(folder: Path) -> None:
    """Make a folder and what is missing above it, all their names on the disk where that can be asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in folder.parents:
        with suppress(OSError):
            _sync_folder(one)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
