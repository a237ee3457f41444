"""The user block: another size, format or layout is refused before anything else is read."""

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cache_makers import (
    as_format_1,
    assert_right,
    craft,
    make_manifest,
    partial,
    read_layout_of,
    reseal,
    stop_after,
    write_cache,
)

from kdcache.cache import seal
from kdcache.cache.reader import open_cache, verify_cache
from kdcache.cache.seal import Extent, Layout, check_seal, prepared_digest, read_layout
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


def test_a_cache_that_0_1_0_wrote_is_read() -> None:
    path = Path(__file__).parents[1] / "data" / "v0.1" / "teacher.h5"
    assert read_layout_of(path).version == 1
    assert len(verify_cache(path).splits["train"]) > 0


@pytest.mark.parametrize("version", [0, 3])
def test_a_format_of_the_future_is_named(version: int, good_path: Path) -> None:
    reseal_layout(good_path, replace(read_layout_of(good_path), version=version))
    with pytest.raises(DataError) as error:
        open_cache(good_path)
    assert str(error.value) == (
        f"expected cache format 1 or 2; found {good_path} with format {version};"
        " use the kdcache that wrote it"
    )


def reseal_layout(path: Path, layout: Layout) -> None:
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), layout.pack(), 0)


def test_a_file_that_is_cut_short_while_it_is_read_has_another_digest(
    good_path: Path, good: bytes
) -> None:
    layout = read_layout_of(good_path)
    with open(good_path, "rb") as file:
        assert prepared_digest(file.fileno(), layout) == layout.digest
        for size in (700, 600, 512, 0):
            os.truncate(good_path, size)
            found = prepared_digest(file.fileno(), layout)
            assert found == hashlib.sha256(good[512:size]).digest() != layout.digest
        with pytest.raises(CacheDamagedError, match="damaged in its seal"):
            check_seal(file.fileno(), layout, "t.h5")


def test_pieces_that_are_read_at_a_time_do_not_show(
    good_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "_CHUNK", 7)
    assert_right(verify_cache(good_path), make_manifest())


class TestLayoutRecord:
    """A file whose extents touch each other, and both ends, is one; its holes hold nothing."""

    BYTES = 1 << 27

    def layout(self, splits: int = 3, manifest: int = 1 << 26, block_bytes: int = 1) -> Layout:
        sizes = [manifest, 4 * splits, *[1] * splits]
        starts = [512]
        for size in sizes:
            starts.append(starts[-1] + size)
        extents = [Extent(start, size) for start, size in zip(starts, sizes, strict=False)]
        first, second, *logits = extents
        return Layout(starts[-1], block_bytes, first, second, tuple(logits))

    def read(self, layout: Layout, folder: Path) -> Layout:
        with open(folder / "t.h5", "w+b") as file:
            file.write(layout.pack())
            file.truncate(layout.file_size)
            return read_layout(file.fileno(), "t.h5")

    @pytest.mark.parametrize("splits", [1, 3, 8])
    def test_one_that_fits_is_read(self, splits: int, tmp_path: Path) -> None:
        assert self.read(self.layout(splits), tmp_path) == self.layout(splits)

    @pytest.mark.parametrize(
        "change",
        [{"splits": 9}, {"manifest": (1 << 26) + 1}, {"block_bytes": 0}],
        ids=["too many splits", "manifest too large", "no block"],
    )
    def test_one_that_is_too_large_is_refused(self, change: dict[str, int], tmp_path: Path) -> None:
        with pytest.raises(CacheDamagedError, match=r"found t\.h5 damaged in its layout record"):
            self.read(self.layout(**change), tmp_path)

    @pytest.mark.parametrize("place", range(5))
    @pytest.mark.parametrize("by", [-1, 1])
    def test_one_byte_of_two_things_is_refused(self, place: int, by: int, tmp_path: Path) -> None:
        layout = self.layout(manifest=700)
        extents = [layout.manifest, layout.block_crc32, *layout.logits]
        moved = extents[place]
        extents[place] = Extent(moved.offset + by, moved.size)
        first, second, *logits = extents
        forged = replace(layout, manifest=first, block_crc32=second, logits=tuple(logits))
        with pytest.raises(CacheDamagedError, match=r"found t\.h5 damaged in its layout record"):
            self.read(forged, tmp_path)


class TestTheDigestOfTheLogits:
    def test_it_is_that_of_all_splits_in_their_order(self, good_path: Path, good: bytes) -> None:
        sha = hashlib.sha256()
        for extent in read_layout_of(good_path).logits:
            sha.update(good[extent.offset : extent.end])
        assert good[296:328] == sha.digest()

    @pytest.mark.parametrize("block", range(4))
    def test_an_edit_that_keeps_every_crc32_is_refused_by_verify(
        self, block: int, good_path: Path
    ) -> None:
        before = open_cache(good_path).content_digest
        craft(good_path, block)
        assert open_cache(good_path).content_digest == before  # which is why verify is needed
        with pytest.raises(CacheDamagedError) as error:
            verify_cache(good_path)
        assert str(error.value) == (
            f"expected a complete cache; found {good_path} damaged in the logits: their SHA-256 is"
            " not the one that was sealed; copy it again, or delete it and run phase one again"
        )

    def test_whoever_seals_anew_changes_the_content_digest(self, good_path: Path) -> None:
        before = verify_cache(good_path).content_digest
        craft(good_path, 0)
        reseal(good_path, read_layout_of(good_path))
        assert verify_cache(good_path).content_digest != before

    def test_format_1_has_none(self, good_path: Path) -> None:
        as_format_1(good_path)
        assert good_path.read_bytes()[8:12] == b"\1\0\0\0"
        assert good_path.read_bytes()[296:508] == bytes(212)
        assert_right(verify_cache(good_path), make_manifest())
        craft(good_path, 0)
        verify_cache(good_path)  # nothing in the file could tell

    def test_an_unfinished_file_of_format_1_is_finished_as_that(
        self, good_path: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "old.h5"
        stop_after(path, 0)
        reseal_layout(partial(path), replace(read_layout_of(partial(path)), version=1))
        write_cache(path, make_manifest())
        as_format_1(good_path)
        assert path.read_bytes() == good_path.read_bytes()

    @pytest.mark.parametrize("place", [296, 400])
    def test_what_should_be_zero_is(self, place: int, good_path: Path) -> None:
        """In the seal of format 1, whose own CRC32 is right."""
        as_format_1(good_path)
        content = bytearray(good_path.read_bytes())
        content[place] = 1
        content[508:512] = zlib.crc32(content[256:508]).to_bytes(4, "little")
        good_path.write_bytes(content)
        with pytest.raises(CacheDamagedError, match=f"found {good_path} damaged in its seal"):
            open_cache(good_path)


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
    with pytest.raises(CacheDamagedError, match=f"found {good_path} damaged in its layout record"):
        open_cache(good_path)
