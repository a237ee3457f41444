"""Small caches for tests: whole manifests, arrays computed from the row's index, forged seals."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache.manifest import Manifest
from kdcache.cache.reader import Cache
from kdcache.cache.seal import (
    Extent,
    Layout,
    check_seal,
    prepared_digest,
    read_layout,
    write_seal,
)
from kdcache.cache.writer import CacheWriter
from kdcache.config import SPLITS

CLASSES, BLOCK_ROWS = 3, 4


def manifest_document(
    rows: Sequence[int] = (4, 2, 1),
    views: int = 2,
    classes: int = CLASSES,
    teacher: str = "Lehrkörper",
) -> dict[str, Any]:
    """Every record of a manifest, as phase one writes it.

    With the defaults 4 images in 2 views, 2 and 1 in one: 8 + 2 + 1 rows in 2 + 1 + 1 blocks.
    """
    splits = {}
    for place, (name, count) in enumerate(zip(SPLITS, rows, strict=True)):
        splits[name] = {
            "rows": count,
            "views": views if name == "train" else 1,
            "digest": f"{place}" * 64,
        }
    return {
        "dataset": {
            "name": "indexed",
            "class_names": ["eins", "zwei"],
            "image_shape": [32, 48],
            "limit": None,
            "store_size": None,
            "split_seed": 0,
        },
        "splits": splits,
        "teacher": {
            "name": teacher,
            "weights": "none",
            "digest": "a" * 64,
            "classes": classes,
            "class_names": None,
        },
        "input": {
            "image_size": 32,
            "interpolation": "bilinear, antialiased",
            "mean": [0.5, 0.25, 0.125],
            "std": [0.25, 0.5, 1.0],
        },
        "views": {"augment": "crop-flip", "seed": 7},
        "precision": "fp32",
        "software": {
            "torch": "2.6.0",
            "torchvision": "0.21.0",
            "device": "a processor with a name long enough for the numbers that tests put in",
            "compile": "none",
        },
    }


def make_manifest(*arguments: Any, **named: Any) -> Manifest:
    """The manifest of `manifest_document` with the same arguments."""
    return Manifest.from_json(manifest_document(*arguments, **named))


def make_arrays(manifest: Manifest) -> dict[str, np.ndarray]:
    """Every number comes from the row's index and the split: a misaligned row cannot pass."""
    arrays = {}
    for place, split in enumerate(SPLITS):
        rows, views = manifest.splits[split].rows, manifest.splits[split].views
        arrays[f"{split}/views"] = make_views(rows, views, place)
        arrays[f"{split}/labels"] = (np.arange(rows) + place) % 2
        arrays[f"{split}/image_crc32"] = (np.arange(rows) * 2654435761 % 2**32).astype(np.uint32)
    return arrays


def make_views(rows: int, views: int, place: int) -> np.ndarray:
    """int16 (rows, views, 5): view 0 is the whole of 32 x 48 pixels, the others are parts of it."""
    number = np.arange(rows * views).reshape(rows, views) + 17 * place
    boxes = [number % 40 - 8, number % 50 - 9, 1 + number % 32, 1 + number // 3 % 48, number % 2]
    table = np.stack(boxes, axis=-1).astype(np.int16)
    # whatever part is drawn, some of it is in the image
    table[..., 2:4] = np.maximum(table[..., 2:4], 1 - table[..., 0:2])
    table[:, 0] = (0, 0, 32, 48, 0)
    return table


def logits_of(manifest: Manifest, split: str) -> np.ndarray:
    """float32 (rows * views, classes): sin of the number's own index."""
    part, classes = manifest.splits[split], manifest.teacher.classes
    index = np.arange(part.rows * part.views * classes) + 10_000 * SPLITS.index(split)
    return (100 * np.sin(index)).astype(np.float32).reshape(-1, classes)


def open_writer(
    path: Path, manifest: Manifest, block_rows: int = BLOCK_ROWS, restart: bool = False
) -> CacheWriter:
    arrays = make_arrays(manifest)
    return CacheWriter(path, manifest, arrays, block_rows=block_rows, restart=restart)


def write_block(writer: CacheWriter, manifest: Manifest, block: int) -> None:
    rows = writer.rows(block)
    writer.write(block, logits_of(manifest, rows.split)[rows.start : rows.stop])


def write_cache(path: Path, manifest: Manifest, block_rows: int = BLOCK_ROWS) -> None:
    """Write what is missing and seal."""
    with open_writer(path, manifest, block_rows) as writer:
        for block in writer.missing:
            write_block(writer, manifest, block)
        if not writer.complete:
            writer.seal()


def stop_after(path: Path, blocks: int) -> None:
    """What a run leaves that is killed after so many blocks."""
    with open_writer(path, make_manifest()) as writer:
        for block in writer.missing[:blocks]:
            write_block(writer, make_manifest(), block)


def assert_right(cache: Cache, manifest: Manifest) -> None:
    """The cache holds exactly what `write_cache` writes."""
    arrays = make_arrays(manifest)
    assert cache.manifest == manifest
    assert cache.fingerprint == manifest.fingerprint
    for split, part in cache.splits.items():
        for member in ("views", "labels", "image_crc32"):
            expected = arrays[f"{split}/{member}"]
            assert getattr(part, member).dtype == expected.dtype
            assert (getattr(part, member) == expected).all()
        assert part.logits.dtype == np.float16
        assert len(part) == manifest.splits[split].rows
        expected = logits_of(manifest, split).astype(np.float16).reshape(part.logits.shape)
        assert (part.logits == expected).all()


def partial(path: Path) -> Path:
    return Path(f"{path}.partial")


def journal(path: Path) -> Path:
    return Path(f"{path}.partial.journal-0")


def read_layout_of(path: Path) -> Layout:
    with open(path, "rb") as file:
        return read_layout(file.fileno(), str(path))


def block_extents(path: Path) -> list[Extent]:
    return read_layout_of(path).blocks()


def flip(path: Path, place: int, mask: int) -> None:
    """Flip the bits of `mask` in one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def reseal(path: Path, layout: Layout) -> None:
    """Forge: give a file that was tampered with a valid layout record, checksums and seal."""
    with open(path, "r+b") as file:
        fd = file.fileno()
        layout = replace(layout, file_size=path.stat().st_size)
        blocks = [os.pread(fd, block.size, block.offset) for block in layout.blocks()]
        crcs = np.array([zlib.crc32(block) for block in blocks], "<u4")
        os.pwrite(fd, crcs.tobytes(), layout.block_crc32.offset)
        layout = replace(layout, digest=prepared_digest(fd, layout))
        os.pwrite(fd, layout.pack(), 0)
        write_seal(fd, layout, hashlib.sha256(b"".join(blocks)).digest())
        check_seal(fd, read_layout(fd, str(path)), str(path))


# CRC32's own polynomial, the first bit first: added to any bytes, it leaves their CRC32 as it is.
_CRC_POLYNOMIAL = np.packbits([int(bit) for bit in f"{0x1_04C1_1DB7:033b}"], bitorder="little")


def craft(path: Path, block: int) -> None:
    """Forge: change five bytes of a block of logits so that its CRC32 stays the same."""
    extent, content = block_extents(path)[block], bytearray(path.read_bytes())
    crc32 = zlib.crc32(content[extent.offset : extent.end])
    for place, byte in enumerate(_CRC_POLYNOMIAL, extent.offset):
        content[place] ^= byte
    assert zlib.crc32(content[extent.offset : extent.end]) == crc32
    path.write_bytes(content)


def as_format_1(path: Path) -> None:
    """Make a cache what 0.1.0 would have written: its seal has no SHA-256 of the logits."""
    reseal(path, replace(read_layout_of(path), version=1))


def reverse_logits(path: Path) -> None:
    """Forge: the training images' logits in the opposite order, sealed again; the same manifest."""
    layout = read_layout_of(path)
    with open(path, "r+b") as file:
        rows = np.memmap(file, "<u2", "r+", layout.logits[0].offset, layout.logits[0].size // 2)
        rows[:] = rows[::-1].copy()
        rows.flush()
    reseal(path, layout)


def replace_in_manifest(path: Path, old: bytes, new: bytes) -> None:
    """Forge: change bytes of the manifest, none more and none less, and seal the file again."""
    assert len(old) == len(new)
    layout, content = read_layout_of(path), path.read_bytes()
    place = content.index(old, layout.manifest.offset)
    assert place + len(old) <= layout.manifest.end
    path.write_bytes(content[:place] + new + content[place + len(old) :])
    reseal(path, layout)


def canonical(document: Any) -> bytes:
    """How a manifest is written down, said a second time."""
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode()


def forge_manifest(path: Path, document: dict[str, Any]) -> None:
    """Forge: put another manifest of the same length in a cache, and seal it again.

    The name of the device, which nothing depends on, is made as long as it has to be.
    """
    size, content = read_layout_of(path).manifest.size, path.read_bytes()
    name = document["software"]["device"]
    length = len(name) + size - len(canonical(document))
    assert length >= 0
    padded = document | {
        "software": document["software"] | {"device": name.ljust(length, "-")[:length]}
    }
    start = read_layout_of(path).manifest.offset
    replace_in_manifest(path, content[start:][:size], canonical(padded))


def open_descriptors() -> set[str]:
    """Of this process, each as number and what it leads to; empty where the system does not say."""
    folder, found = Path("/proc/self/fd"), set()
    for link in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # that of the folder itself
            found.add(f"{link.name} {os.readlink(link)}")
    return found
