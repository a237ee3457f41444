"""Decoded pixels in a file that is mapped, not loaded: NumPy's .npy, whole or not there at all."""

import io
import math
import mmap
import os
import sys
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.runtime import os_errors_as_data_errors, reserve, write_all

Shape = tuple[int, int, int, int]
"""(N, 3, H, W)."""

PutImage = Callable[[int, NDArray[np.uint8]], None]
"""Takes a row and the pixels `(3, H, W)` of its image to where they stay."""

# Linux refuses to map a file larger than the memory for writing, though only into this process,
# unless told that little of it will be written. Python has had the number since 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def find_pixels(path: Path, shape: Shape) -> NDArray[np.uint8] | None:
    """Map the file that `make_pixels` left.

    The pixels are read when they are looked at. What is written to the array stays in this process:
    the file never changes.

    Returns uint8 `shape`; None where the file is not there, or has another shape.
    Raises DataError where the file cannot be mapped.
    """
    try:
        with open(path, "rb") as file:
            if _has_shape(file.fileno(), shape):
                with _os_errors_as_data_errors(path, shape):
                    return _map(file.fileno(), shape)
    except OSError:  # whoever cannot read it makes it again
        pass
    return None


def make_pixels(path: Path, shape: Shape, fill: Callable[[PutImage], None]) -> NDArray[np.uint8]:
    """Make a file of pixels, and map it as `find_pixels` does.

    Several processes may make the same file at once: the last one's stays.

    Args:
        fill: called with a function that puts one image into the file, from any thread.

    Raises DataError where the disk lacks room, before anything is put, or the folder cannot be
    written.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    header = _header(shape)
    image_size = math.prod(shape[1:])
    try:
        with _os_errors_as_data_errors(path, shape), open(temporary, "x+b", buffering=0) as file:
            fd = file.fileno()
            reserve(fd, len(header) + math.prod(shape))
            write_all(fd, header, 0)

            def put(row: int, pixels: NDArray[np.uint8]) -> None:
                write_all(fd, pixels.tobytes(), len(header) + row * image_size)

            fill(put)
            os.fsync(fd)
            mapped = _map(fd, shape)
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # what stopped the writing may forbid the removal, too
            temporary.unlink(missing_ok=True)
        raise
    return mapped


def _header(shape: Shape) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _has_shape(fd: int, shape: Shape) -> bool:
    """Whether header and length of a file are those of pixels of this shape."""
    header = _header(shape)
    if os.fstat(fd).st_size != len(header) + math.prod(shape):
        return False
    return os.pread(fd, len(header), 0) == header


def _map(fd: int, shape: Shape) -> NDArray[np.uint8]:
    start = len(_header(shape))
    size = math.prod(shape)
    flags = mmap.MAP_PRIVATE | _NO_RESERVE
    access = mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(fd, start + size, flags, access)
    return np.frombuffer(mapped, np.uint8, size, start).reshape(shape)


def _os_errors_as_data_errors(path: Path, shape: Shape) -> AbstractContextManager[None]:
    gigabytes = math.prod(shape) / 1e9
    return os_errors_as_data_errors(
        f"{path}, {gigabytes:,.1f} GB of decoded images",
        "free some space, give a --data that can be written (with links to train and test in it),"
        " or a smaller --limit or --store-size",
    )
