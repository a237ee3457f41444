"""Decoded pixels in a file that is mapped, not loaded: NumPy's .npy format, under its name whole or not there."""

import io
import math
import mmap
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.errors import KdcacheError

Shape = tuple[int, int, int, int]


Put = Callable[[int, NDArray[np.uint8]], None]


# Linux refuses to map a file larger than the memory for writing, though only into this process, unless told that little
# of it will be written. Python has had the number since 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def find_pixels(path: Path, shapes: Sequence[Shape]) -> NDArray[np.uint8] | None:
    """The pixels `(N, 3, H, W)` of one of these shapes that `make_pixels` left; None where the file is not there or is another.

    They are read when they are looked at. What is written to the array stays in this process: the file never changes.

    Raises KdcacheError where the file cannot be mapped.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            for shape in shapes:
                header = _header(shape)
                if (
                    size == len(header) + math.prod(shape)
                    and os.pread(file.fileno(), len(header), 0) == header
                ):
                    with _refusing_os_errors(path, shape):
                        return _mapped(file.fileno(), shape)
    except OSError:  # whoever cannot read it makes it again
        pass
    return None


def make_pixels(path: Path, shape: Shape, fill: Callable[[Put], None]) -> NDArray[np.uint8]:
    """Make a file of pixels and map it as `find_pixels` does. Several processes may do so at once: the last one's stays.

    Args:
        fill: called with a function that puts the pixels `(3, H, W)` of one row into the file, from any thread.

    Raises KdcacheError where the disk lacks room, before anything is put, or the folder cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    header, size = _header(shape), math.prod(shape[1:])
    try:
        with _refusing_os_errors(path, shape), open(temporary, "x+b", buffering=0) as file:
            _reserve(file.fileno(), len(header) + math.prod(shape))
            _write_all(file.fileno(), header, 0)
            fill(
                lambda row, pixels: _write_all(
                    file.fileno(), pixels.tobytes(), len(header) + row * size
                )
            )
            os.fsync(file.fileno())
            mapped = _mapped(file.fileno(), shape)
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return mapped


def _header(shape: Shape) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _mapped(fd: int, shape: Shape) -> NDArray[np.uint8]:
    start, size = len(_header(shape)), math.prod(shape)
    flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    return np.frombuffer(mmap.mmap(fd, start + size, flags, access), np.uint8, size, start).reshape(
        shape
    )


def _reserve(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


@contextmanager
def _refusing_os_errors(path: Path, shape: Shape) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KdcacheError(
            f"room and the right to write {path}, {math.prod(shape) / 1e9:,.1f} GB of decoded images",
            f"{error.strerror or error}",
            "free some space, give a --data that can be written (with links to train and test in it),"
            " or a smaller --limit or --store-size",
        ) from error
