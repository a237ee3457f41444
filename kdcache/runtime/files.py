"""Files that are written whole or not at all, and the system calls that this takes."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from kdcache.errors import DataError
from kdcache.runtime.file_locks import open_locked

_REMEDIES = {
    errno.ENOENT: "make its folder or write to another one",
    errno.ENOTDIR: "make its folder or write to another one",
    errno.EISDIR: "give the name of a file",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""What to do about a path that cannot be one."""


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have `write` fill a temporary file, force it to the disk, and give it its name.

    Whatever stops it, a file that was there before keeps its content. Once this has returned, the
    new one survives a loss of power. Of several processes that write the same file at once, the
    last one's stays.

    Raises DataError where there is no room, or no right to write there.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with (
        os_errors_as_data_errors(f"{path}", "free some space or write to another folder"),
        open(open_locked(temporary, wait=True), "wb") as file,
    ):
        try:
            file.truncate()  # what a killed process left
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # what stopped the writing may forbid the removal, too
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text and a line break, in UTF-8. Raises as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file. Raises as `write_atomically` does."""
    write_text(path, json.dumps(value, indent=1))


@contextmanager
def os_errors_as_data_errors(target: str, remedy: str) -> Iterator[None]:
    """Have an OSError of the block say in one line what could not be written, and what to do.

    Args:
        target: what is being written, for the message.
        remedy: what to do where there is no room or no right to.

    Raises DataError in the place of the OSError.
    """
    try:
        yield
    except OSError as error:
        found = f"{error.strerror or error}"
        remedy = _REMEDIES.get(error.errno or 0, remedy)
        raise DataError(f"room and the right to write {target}", found, remedy) from error


def write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Write every byte, at `offset` or at the end; the kernel may take fewer at a time.

    Raises OSError.
    """
    view = memoryview(data)
    while view:
        count = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view = view[count:]
        if offset is not None:
            offset += count


def reserve(fd: int, size: int) -> None:
    """Have the disk keep room for a file of `size` bytes, where the system knows how to.

    A disk that is full then says so before any work is done. Raises OSError.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)


def sync_data(fd: int) -> None:
    """Force a file's bytes to the disk. Raises OSError."""
    # macOS has no fdatasync
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and force their names to the disk where that is allowed.

    Raises OSError where it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.parents:
        with suppress(OSError):  # a folder of somebody else need not be readable
            sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk: files that were made, renamed or removed there.

    Raises OSError.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
