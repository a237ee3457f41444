"""Writing files so that a full disk is noticed early and a loss of power takes nothing promised."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdcache.errors import DataError


def partial_path(path: Path) -> Path:
    """What a cache is called while it is being filled."""
    return Path(f"{path}.partial")


def reserve(path: Path, size: int) -> None:
    """Have the file system set aside `size` bytes for the file, where it can.

    Raises OSError where there is no room for them.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


class ReservedFile(io.FileIO):
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


def write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Write every byte, at `offset` or, without one, at the file's end.

    The kernel may take fewer bytes at a time than it is given.
    """
    view = memoryview(data)
    while view:
        if offset is None:
            count = os.write(fd, view)
        else:
            count = os.pwrite(fd, view, offset)
            offset += count
        view = view[count:]


def sync_folder(folder: Path) -> None:
    """Force a folder's names to the disk: a file's own fsync need not cover its name."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and force their names to the disk where that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.parents:
        with suppress(OSError):  # a folder of somebody else need not be readable
            sync_folder(parent)


@contextmanager
def refusing_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a DataError that says what the cache `path` could not be written for."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"room and the right to write {path}",
            f"{error.strerror or error}",
            "free some space or give another --cache",
        ) from error
