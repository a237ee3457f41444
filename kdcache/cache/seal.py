"""What proves a cache whole without HDF5: the 512-byte user block in front of the HDF5 file.

    bytes   0..255  layout: file size, block size, where manifest, checksums and logits lie, SHA-256
                    of all that is written before the first logit; written once, before the file
                    gets a name
    bytes 256..511  seal: SHA-256 of the layout, of that of the logits and of every byte behind the
                    user block except the logits; and the SHA-256 of the logits; written last

The logits are covered twice: by one CRC32 a block, in the table `block_crc32`, which tells damage
fast and where it is, and by their SHA-256, which tells intent too. A damaged file is thus refused
before libhdf5, which damaged headers can crash, parses it. Format 1 has no SHA-256 of the logits.
"""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass

from kdcache.errors import CacheDamagedError, DataError

USER_BLOCK = 512
_HALF = USER_BLOCK // 2
_LAYOUT_MAGIC = b"kdcache\0"
_SEAL_MAGIC = b"kdsealed"
_VERSIONS = (1, 2)
# Magic, version, number of logits extents, file size, block bytes, SHA-256.
_HEADER = struct.Struct("<8sIIQQ32s")
_EXTENT = struct.Struct("<QQ")  # offset, size
_SEAL = struct.Struct("<8s32s32s")  # magic, SHA-256 of all else, SHA-256 of the logits
_CRC = struct.Struct("<I")
_MOST_EXTENTS = 8  # of logits that are looked at: a cache has 3, and damage may announce billions
_LARGEST_MANIFEST = 1 << 26  # bytes: it is read at once
_NO_DIGEST = bytes(32)  # where format 1 has no SHA-256 of the logits
_CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Extent:
    """A run of bytes in the file."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    `logits` holds one extent a split; a block is at most `block_bytes` of one of them. `digest` is
    the SHA-256 of all that is written before the first logit; `version` that of the format.
    """

    file_size: int
    block_bytes: int
    manifest: Extent
    block_crc32: Extent
    logits: tuple[Extent, ...]
    digest: bytes = bytes(32)
    version: int = _VERSIONS[-1]

    def blocks(self) -> list[Extent]:
        """All blocks of logits, in the order of their numbers; none spans two splits."""
        blocks = []
        for extent in self.logits:
            for offset in range(extent.offset, extent.end, self.block_bytes):
                blocks.append(Extent(offset, min(self.block_bytes, extent.end - offset)))
        return blocks

    def pack(self) -> bytes:
        """The first half of the user block, 256 bytes."""
        sizes = (len(self.logits), self.file_size, self.block_bytes)
        header = _HEADER.pack(_LAYOUT_MAGIC, self.version, *sizes, self.digest)
        extents = b"".join(
            _EXTENT.pack(extent.offset, extent.size)
            for extent in (self.manifest, self.block_crc32, *self.logits)
        )
        return _with_crc(header + extents)


@dataclass(frozen=True)
class Seal:
    """What a complete file ends with.

    `digest` is the SHA-256 of every byte but the logits, and of `logits`, their own SHA-256, which
    format 1 does not have: zeros.
    """

    digest: bytes
    logits: bytes

    def pack(self) -> bytes:
        """The second half of the user block, 256 bytes."""
        return _with_crc(_SEAL.pack(_SEAL_MAGIC, self.digest, self.logits))


def read_layout(fd: int, name: str) -> Layout:
    """The layout of an open file, checked against its own CRC and against the file's size.

    Args:
        name: the file's, for messages.

    Raises DataError where the file is no cache or one of another format, and CacheDamagedError
    where its layout record is damaged.
    """
    raw = os.pread(fd, _HALF, 0)
    if raw[: len(_LAYOUT_MAGIC)] != _LAYOUT_MAGIC:
        raise DataError(
            "a cache written by kdcache", f"{name}, which is something else", "give another file"
        )
    if not _crc_holds(raw):
        raise damaged(name, "its layout record")
    _, version, splits, file_size, block_bytes, digest = _HEADER.unpack_from(raw)
    if version not in _VERSIONS:
        raise DataError(
            f"cache format {' or '.join(map(str, _VERSIONS))}",
            f"{name} with format {version}",
            "use the kdcache that wrote it",
        )
    extents = [
        Extent(*_EXTENT.unpack_from(raw, _HEADER.size + _EXTENT.size * i))
        for i in range(2 + min(splits, _MOST_EXTENTS))
    ]
    manifest, table, *logits = extents
    layout = Layout(file_size, block_bytes, manifest, table, tuple(logits), digest, version)
    _check_extents(layout, extents, raw, os.fstat(fd).st_size, name)
    return layout


def _check_extents(
    layout: Layout, extents: list[Extent], raw: bytes, actual_size: int, name: str
) -> None:
    """Refuse sizes that do not fit together, before anything is allocated from them."""
    if actual_size != layout.file_size:
        raise damaged(name, f"its size ({actual_size} bytes; {layout.file_size} were written)")
    ordered = sorted(extents, key=lambda extent: extent.offset)
    ends = [USER_BLOCK, *(extent.end for extent in ordered)]
    apart = all(end <= extent.offset for end, extent in zip(ends, ordered, strict=False))
    fits = ends[-1] <= layout.file_size and layout.manifest.size <= _LARGEST_MANIFEST
    if not apart or not fits or layout.block_bytes < 1 or layout.pack() != raw:
        raise damaged(name, "its layout record")
    blocks = sum(-(-extent.size // layout.block_bytes) for extent in layout.logits)
    if layout.block_crc32.size != _CRC.size * blocks:
        raise damaged(name, "its layout record")


def write_seal(fd: int, layout: Layout, logits: bytes) -> None:
    """Mark a file complete.

    The caller has checked all blocks, and forces the file to the disk afterwards.

    Args:
        logits: SHA-256 of the logits of all splits, in their order.
    """
    if layout.version == 1:
        logits = _NO_DIGEST
    os.pwrite(fd, Seal(sealed_digest(fd, layout, logits), logits).pack(), _HALF)


def check_seal(fd: int, layout: Layout, name: str) -> Seal:
    """The seal of a complete file. The logits themselves are not read.

    Raises CacheDamagedError unless every byte but the logits is the one that was sealed.
    """
    raw = os.pread(fd, _HALF, _HALF)
    seal = Seal(*_SEAL.unpack_from(raw.ljust(_HALF))[1:])
    if raw != seal.pack() or (layout.version == 1 and seal.logits != _NO_DIGEST):
        raise damaged(name, "its seal")
    if seal.digest != sealed_digest(fd, layout, seal.logits):
        raise damaged(name, "a byte outside the logits")
    return seal


def sealed_digest(fd: int, layout: Layout, logits: bytes) -> bytes:
    """SHA-256 of the layout, the SHA-256 of the logits, and all else behind the user block."""
    prefix = layout.pack() + (logits if layout.version > 1 else b"")
    return _digest(fd, layout, prefix, layout.logits)


def prepared_digest(fd: int, layout: Layout) -> bytes:
    """SHA-256 of all that is complete before the first logit.

    That is every byte behind the user block except the logits and the table of their checksums.
    """
    return _digest(fd, layout, b"", (*layout.logits, layout.block_crc32))


def _digest(fd: int, layout: Layout, prefix: bytes, holes: tuple[Extent, ...]) -> bytes:
    """SHA-256 of `prefix` and of every byte behind the user block that is in none of the holes."""
    sha = hashlib.sha256(prefix)
    position = USER_BLOCK
    for hole in (*sorted(holes, key=lambda extent: extent.offset), Extent(layout.file_size, 0)):
        while position < hole.offset:
            piece = os.pread(fd, min(_CHUNK, hole.offset - position), position)
            if not piece:
                break  # the file was cut short since its size was checked
            sha.update(piece)
            position += len(piece)
        position = hole.end
    return sha.digest()


def damaged(name: str, where: str) -> CacheDamagedError:
    """The error for a cache some part of which is not what was written."""
    return CacheDamagedError(
        "a complete cache",
        f"{name} damaged in {where}",
        "copy it again, or delete it and run phase one again",
    )


def _with_crc(record: bytes) -> bytes:
    """The record, zeros up to the half's last four bytes, and the CRC32 of both."""
    body = record.ljust(_HALF - _CRC.size, b"\0")
    return body + _CRC.pack(zlib.crc32(body))


def _crc_holds(half: bytes) -> bool:
    return len(half) == _HALF and half == _with_crc(half[: -_CRC.size])
