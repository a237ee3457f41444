"""The journals of an unfinished cache: which blocks are on the disk, and who is at work.

Each process that fills a cache has a journal `NAME.h5.partial.journal-RANK`. It holds one record a
finished block, appended once the block itself is on the disk, and the lock on it keeps other runs
away for as long as the process lives.
"""

import glob
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kdcache.cache.seal import Layout
from kdcache.errors import OptionError
from kdcache.runtime import open_locked, sync_data, write_all

# Block number and CRC32 of the block's bytes; behind them the CRC32 of the layout's digest and of
# these 8 bytes. The digest binds a record to one file: a loss of power can bring back the journal
# of another manifest, and its records of blocks of zeros would fit the reserved space of the new
# file.
_RECORD = struct.Struct("<II")
_RECORD_CRC = struct.Struct("<I")
_RECORD_SIZE = _RECORD.size + _RECORD_CRC.size


def partial_path(path: Path) -> Path:
    """What a cache is called while it is being filled."""
    return Path(f"{path}.partial")


class Journal:
    """One process's journal, open and locked.

    Raises OptionError where a process of another run holds its lock.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self._fd = _open_locked(path, _journal_path(path, rank))

    def clear(self) -> None:
        os.ftruncate(self._fd, 0)

    def drop_torn_record(self) -> None:
        """Forget a last record that was begun and not finished, so that new ones are aligned."""
        size = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, size - size % _RECORD_SIZE)

    def append(self, block: int, crc32: int, layout: Layout) -> None:
        """Record a block as finished; when this returns the record is on the disk."""
        record = _RECORD.pack(block, crc32)
        write_all(self._fd, record + _record_crc(record, layout))
        sync_data(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def finished_blocks(path: Path, fd: int, layout: Layout) -> Iterator[tuple[int, int, bytes]]:
    """Each block whose bytes match a record in some process's journal, in the blocks' order.

    Args:
        path: the cache's final name.
        fd: the unfinished file, open for reading.
        layout: that of the unfinished file.

    Yields the block's number, its CRC32, and its bytes.
    """
    recorded: set[tuple[int, int]] = set()
    for journal in _journals(path):
        recorded |= set(_intact_records(journal.read_bytes(), layout))
    blocks, numbers = layout.blocks(), {number for number, _ in recorded}
    for number in sorted(numbers & set(range(len(blocks)))):
        data = os.pread(fd, blocks[number].size, blocks[number].offset)
        crc32 = zlib.crc32(data)
        if (number, crc32) in recorded:
            yield number, crc32, data


def refuse_other_runs(path: Path) -> None:
    """Raise OptionError where any process of another run is writing the cache."""
    for journal in _journals(path):
        os.close(_open_locked(path, journal))


def remove_journals(path: Path, *, keep: int | None = None) -> None:
    """Remove all journals of a cache, or all but that of the process of rank `keep`."""
    kept = None if keep is None else _journal_path(path, keep)
    for journal in _journals(path):
        if journal != kept:
            journal.unlink(missing_ok=True)


def remove_stale_journals(path: Path) -> None:
    """Remove the journals of a run that was killed after it gave the cache its name."""
    if partial_path(path).exists():
        return  # another run has begun to replace the cache, and they are its own
    for journal in _journals(path):
        with suppress(OptionError, OSError):  # a run about to replace the cache holds its lock
            lock = _open_locked(path, journal)
            journal.unlink(missing_ok=True)
            os.close(lock)


def _journal_path(path: Path, rank: int) -> Path:
    return Path(f"{partial_path(path)}.journal-{rank}")


def _journals(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(partial_path(path).name)}.journal-*"))


def _open_locked(path: Path, journal: Path) -> int:
    """Open a journal of the cache `path` for appending, and lock it."""
    try:
        return open_locked(journal, os.O_APPEND)
    except BlockingIOError as error:
        raise OptionError(
            f"no other run writing {path}",
            "one that is still going on",
            "wait for it or give another --cache",
        ) from error


def _intact_records(raw: bytes, layout: Layout) -> Iterator[tuple[int, int]]:
    """Block number and CRC32 of each record of a journal that is whole and of this file."""
    for offset in range(0, len(raw) - _RECORD_SIZE + 1, _RECORD_SIZE):
        record = raw[offset : offset + _RECORD.size]
        if raw[offset + _RECORD.size : offset + _RECORD_SIZE] == _record_crc(record, layout):
            block, crc32 = _RECORD.unpack(record)
            yield block, crc32


def _record_crc(record: bytes, layout: Layout) -> bytes:
    return _RECORD_CRC.pack(zlib.crc32(record, zlib.crc32(layout.digest)))
