"""Files of tensors: written whole or not at all, and read only where they are what was written.

A file is an archive as torch.save writes it, which torch.load reads as any other. It is a zip file,
and a zip file ends with a comment that its readers pass over: there lies the SHA-256 of the rest.
"""

import hashlib
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdcache.errors import DataError, uncovered_interrupts
from kdcache.runtime.files import write_atomically

_COMMENT = re.compile(rb"kdcache sha256 ([0-9a-f]{64})")
_COMMENT_BYTES = len(b"kdcache sha256 ") + 64
_END = b"PK\5\6"  # of the record that ends a zip file: 20 bytes, the comment's length, the comment
_END_BYTES = 22
_NO_COMMENT = struct.pack("<H", 0)
_CHUNK = 1 << 20  # bytes read at a time


def save_tensors(path: Path, state: Any) -> None:
    """Write nested containers of tensors, numbers and texts with torch.save, and their SHA-256.

    Raises DataError where there is no room, or no right to write there.
    """
    write_atomically(path, lambda file: _save(state, file))


def _save(state: Any, file: BinaryIO) -> None:
    archive = _Hashing(file)
    try:
        with uncovered_interrupts():
            torch.save(state, archive)  # pyright: ignore[reportArgumentType]  # needs write, flush
    except RuntimeError as error:
        hidden = error.__context__  # torch's own error takes the place of what the file raised
        if isinstance(hidden, OSError):
            raise OSError(hidden.errno, hidden.strerror) from error
        raise
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(struct.pack("<H", _COMMENT_BYTES))
    file.write(f"kdcache sha256 {archive.sha.hexdigest()}".encode())


class _Hashing:
    """A file that is only appended to, as torch.save does, and the SHA-256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def load_tensors(
    path: Path,
    device: torch.device,
    *,
    expected: str = "a checkpoint as train_student.py writes it",
    remedy: str = "train anew",
    foreign: bool = False,
) -> Any:
    """Read what `save_tensors` wrote, with its tensors on `device`, if it is still that.

    Nothing that a pickle could hold is executed. Of a file without a SHA-256, as 0.1.0 wrote them,
    the CRC32s of torch.save are checked.

    Args:
        expected, remedy: for the message, where it is not.
        foreign: also read what others saved, in any form that torch.load knows; a SHA-256 of ours
            is checked there, too.

    Raises DataError where the file is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            fault = _fault(file, foreign)
            if fault is None:
                file.seek(0)
                return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise DataError(expected, f"{path}, which is not one", remedy) from error
    raise DataError(expected, f"{path}, which is damaged: {fault}", remedy)


def _fault(file: BinaryIO, foreign: bool) -> str | None:
    """What shows that a file is not as it was written; None where nothing does."""
    if not zipfile.is_zipfile(file):
        if foreign:
            return None  # torch's older forms, which we never wrote
        raise ValueError("not an archive")
    size = file.seek(0, os.SEEK_END)
    commented = size - _END_BYTES - _COMMENT_BYTES
    file.seek(max(commented, 0))
    tail = file.read()
    if tail.startswith(_END) and commented >= 0:
        found = _COMMENT.fullmatch(tail[_END_BYTES:])
        length = struct.pack("<H", _COMMENT_BYTES)
        if found is None or tail[_END_BYTES - len(length) : _END_BYTES] != length:
            return "its SHA-256 cannot be read"
        if _digest(file, size - _COMMENT_BYTES) != found[1].decode():
            return "its SHA-256 is not the one that was recorded"
        return None
    bare = tail[-_END_BYTES:]
    if not (bare.startswith(_END) and bare.endswith(_NO_COMMENT)):
        return "its end is not the one that was written"
    if foreign:
        return None  # torch.save can be told to leave out the CRC32s
    with zipfile.ZipFile(file) as archive:
        record = archive.testzip()
        if any(info.external_attr for info in archive.infolist()):
            return "its directory"  # a tensor marked as a folder: torch leaves it uninitialised
    return record and f"the CRC32 of {record} is not the one that was recorded"


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes, an archive, as it was before it had a comment."""
    sha, left = hashlib.sha256(), size - len(_NO_COMMENT)
    file.seek(0)
    while left:
        piece = file.read(min(_CHUNK, left))
        if not piece:
            break  # the file was cut short since its size was taken
        sha.update(piece)
        left -= len(piece)
    sha.update(_NO_COMMENT)
    return sha.hexdigest()
