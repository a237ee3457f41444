"""The user block: another size, format or layout is refused before anything else is read."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cache_makers import read_layout_of, reseal

from kdcache.cache.reader import open_cache
from kdcache.cache.seal import Extent, Layout
from kdcache.errors import CacheDamagedError, DataError


def test_resealing_alone_changes_nothing(good_path: Path, good: bytes) -> None:
    reseal(good_path, read_layout_of(good_path))
    assert good_path.read_bytes() == good


@pytest.mark.parametrize("more", [b"\0", b"x" * 512])
def test_appended_bytes_are_refused(more: bytes, good_path: Path, good: bytes) -> None:
    good_path.write_bytes(good + more)
    with pytest.raises(CacheDamagedError) as error:
        open_cache(good_path)
    assert str(error.value) == (
        f"expected a complete cache; found {good_path} damaged in its size"
        f" ({len(good) + len(more)} bytes; {len(good)} were written);"
        " copy it again, or delete it and run phase one again"
    )


def test_a_format_of_the_future_is_named(good_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.cache.seal._VERSION", 2)
    with pytest.raises(DataError) as error:
        open_cache(good_path)
    assert str(error.value) == (
        f"expected cache format 2; found {good_path} with format 1; use the kdcache that wrote it"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda layout: replace(layout, block_bytes=0),
        lambda layout: replace(layout, manifest=Extent(0, layout.manifest.size)),
        lambda layout: replace(
            layout, logits=(layout.logits[0], layout.logits[0], layout.logits[2])
        ),
        lambda layout: replace(
            layout, logits=(*layout.logits[:2], Extent(layout.file_size, 2**50))
        ),
        lambda layout: replace(layout, block_bytes=layout.block_bytes * 2),
        lambda layout: replace(layout, block_crc32=Extent(layout.block_crc32.offset, 2**40)),
    ],
    ids=[
        "no block",
        "in the user block",
        "overlapping",
        "beyond the end",
        "too few checksums",
        "too many checksums",
    ],
)
def test_a_layout_that_does_not_fit_is_refused(
    change: Callable[[Layout], Layout], good_path: Path
) -> None:
    forged = change(read_layout_of(good_path))
    with open(good_path, "r+b") as file:
        os.pwrite(file.fileno(), forged.pack(), 0)
    with pytest.raises(CacheDamagedError, match="damaged in its layout record"):
        open_cache(good_path)
