"""An independent writer of caches, made from docs/format.md alone: nothing of kdcache is imported.

It writes whole caches, so it shows that the page describes the format; and it seals anything that
it is given, so it forges.
"""

import hashlib
import io
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

SPLITS = ("train", "validation", "test")
MEMBERS = ("logits", "views", "labels", "image_crc32")
DATASETS = ("manifest", "block_crc32", *(f"{split}/{name}" for split in SPLITS for name in MEMBERS))


@dataclass(frozen=True)
class Record:
    """Bytes 8..31 and 64..143 of the user block; `extents` are (offset, size) of manifest,
    block_crc32 and the logits of each split.
    """

    file_size: int
    block_bytes: int
    extents: tuple[tuple[int, int], ...]
    version: int = 2

    @property
    def logits(self) -> tuple[tuple[int, int], ...]:
        return self.extents[2:]


def record_of(raw: bytes) -> Record:
    """What the user block of a whole cache says."""
    version, count, file_size, block_bytes = struct.unpack_from("<IIQQ", raw, 8)
    extents = tuple(struct.unpack_from("<QQ", raw, 64 + 16 * i) for i in range(2 + count))
    return Record(file_size, block_bytes, extents, version)


def pack_manifest(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode()


def build(document: Any, arrays: dict[str, np.ndarray], block_rows: int) -> bytes:
    """A whole cache, sealed.

    Args:
        arrays: of every split and member. `document` may announce others.
        block_rows: views in a block.
    """
    arrays = dict(arrays) | {"manifest": np.frombuffer(pack_manifest(document), "u1")}
    row_bytes = 2 * arrays["train/logits"].shape[-1]
    views = [arrays[f"{split}/logits"].size * 2 // row_bytes for split in SPLITS]
    blocks = sum(-(-count // block_rows) for count in views)
    arrays["block_crc32"] = np.zeros(blocks, "<u4")
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_layout(h5py.h5d.CONTIGUOUS)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    file, extents = io.BytesIO(), {}
    with h5py.File(file, "w", userblock_size=512) as made:
        for name in DATASETS:
            data = arrays[name]
            dataset = made.create_dataset(name, data.shape, data.dtype, dcpl=contiguous.copy())
            dataset[...] = data
            extents[name] = (dataset.id.get_offset(), data.nbytes)
    raw = bytearray(file.getvalue())
    places = ("manifest", "block_crc32", *(f"{split}/logits" for split in SPLITS))
    record = Record(len(raw), block_rows * row_bytes, tuple(extents[name] for name in places))
    seal(raw, record)
    return bytes(raw)


def seal(raw: bytearray, record: Record) -> None:
    """Give any bytes the user block of a cache whose every checksum and digest is right."""
    raw[:512] = bytes(512)
    table = b"".join(
        zlib.crc32(raw[start : min(start + record.block_bytes, offset + size)]).to_bytes(
            4, "little"
        )
        for offset, size in record.logits
        if offset + size <= len(raw) and record.block_bytes > 0
        for start in range(offset, offset + size, record.block_bytes)
    )
    place, size = record.extents[1]
    if len(table) == size and 512 <= place <= len(raw) - size:
        raw[place : place + size] = table
    head = struct.pack("<II", record.version, len(record.logits))
    head = b"kdcache\0" + head + struct.pack("<QQ", record.file_size, record.block_bytes)
    head += sha256(without(raw, *record.logits, record.extents[1]))
    head += b"".join(struct.pack("<QQ", *extent) for extent in record.extents)
    raw[:256] = with_crc(head)
    logits = sha256(b"".join(raw[offset : offset + size] for offset, size in record.logits))
    if record.version == 1:
        covered, logits = raw[:256], bytes(32)
    else:
        covered = raw[:256] + logits
    whole = sha256(covered + without(raw, *record.logits))
    raw[256:512] = with_crc(b"kdsealed" + whole + logits)


def without(raw: bytes, *holes: tuple[int, int]) -> bytes:
    """Every byte from 512 on that is in none of the holes."""
    kept = np.frombuffer(raw, "u1").copy()
    keep = np.ones(len(kept), bool)
    keep[:512] = False
    for offset, size in holes:
        keep[min(offset, len(keep)) : min(offset + size, len(keep))] = False
    return kept[keep].tobytes()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def with_crc(half: bytes) -> bytes:
    body = bytes(half).ljust(252, b"\0")[:252]
    return body + struct.pack("<I", zlib.crc32(body))
