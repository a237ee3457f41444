"""Numbers that no cache can have: the reader refuses them, and the writer does not write them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cache_makers import (
    BLOCK_ROWS,
    block_extents,
    make_arrays,
    make_manifest,
    read_layout_of,
    reseal,
)

from kdcache.cache.checks import are_finite, fault_in_rows
from kdcache.cache.reader import open_cache, verify_cache
from kdcache.cache.writer import CacheWriter
from kdcache.errors import CacheDamagedError, OptionError

# What is written where in the split of training images of 32 x 48 pixels, and how it is told.
IMPOSSIBLE: list[tuple[str, tuple[int, ...], Any, str]] = [
    ("labels", (2,), 2, "train row 2: label 2, and there are 2 classes"),
    ("labels", (1,), -1, "train row 1: label -1, and there are 2 classes"),
    ("views", (3, 1), (0, 0, 0, 48, 0), "train row 3: view 1 is (0, 0, 0, 48, 0) of an image"),
    ("views", (3, 1), (0, 0, 33, 48, 0), "view 1 is (0, 0, 33, 48, 0)"),
    ("views", (3, 1), (0, 0, 32, 49, 0), "view 1 is (0, 0, 32, 49, 0)"),
    ("views", (3, 1), (0, 0, 32, -1, 0), "view 1 is (0, 0, 32, -1, 0)"),
    ("views", (0, 1), (32, 0, 4, 4, 0), "view 1 is (32, 0, 4, 4, 0) of an image of 32 x 48"),
    ("views", (0, 1), (0, -4, 4, 4, 0), "view 1 is (0, -4, 4, 4, 0)"),
    ("views", (0, 1), (0, 0, 4, 4, 2), "view 1 is (0, 0, 4, 4, 2)"),
    ("views", (0, 0), (0, 0, 32, 48, 1), "view 0 is (0, 0, 32, 48, 1)"),
    ("views", (0, 0), (1, 0, 32, 48, 0), "view 0 is (1, 0, 32, 48, 0)"),
]


@pytest.mark.parametrize(("member", "place", "value", "words"), IMPOSSIBLE, ids=str)
class TestRows:
    def test_the_reader_refuses_them(
        self, member: str, place: tuple[int, ...], value: Any, words: str, good_path: Path
    ) -> None:
        layout = read_layout_of(good_path)
        with h5py.File(good_path, "r+") as file:
            file[f"train/{member}"][place] = value
        reseal(good_path, layout)
        with pytest.raises(CacheDamagedError) as error:
            open_cache(good_path, check_logits=False)
        assert words in str(error.value)

    def test_the_writer_does_not_write_them(
        self, member: str, place: tuple[int, ...], value: Any, words: str, tmp_path: Path
    ) -> None:
        manifest = make_manifest()
        arrays = make_arrays(manifest)
        arrays[f"train/{member}"][place] = value
        with pytest.raises(OptionError) as error:
            CacheWriter(tmp_path / "t.h5", manifest, arrays, block_rows=BLOCK_ROWS)
        assert words in str(error.value)
        assert list(tmp_path.iterdir()) == []


class TestUnlabelled:
    @pytest.mark.parametrize("labels", [[0, 1, 1, -1], [1, -1, -1, -1]])
    def test_the_last_training_images_may_have_no_label(self, labels: list[int]) -> None:
        assert fault_of(make_arrays(make_manifest()), labels) is None

    @pytest.mark.parametrize(
        ("labels", "words"),
        [
            ([0, -1, 1, -1], "train row 1: label -1, and there are 2 classes"),
            ([-1, -1, -1, -1], "train row 0: label -1, and there are 2 classes"),
            ([0, 1, 1, -2], "train row 3: label -2, and there are 2 classes"),
        ],
    )
    def test_others_may_not(self, labels: list[int], words: str) -> None:
        assert fault_of(make_arrays(make_manifest()), labels) == words

    def test_nor_may_those_of_other_splits(self) -> None:
        manifest = make_manifest()
        views = make_arrays(manifest)["validation/views"]
        words = "validation row 1: label -1, and there are 2 classes"
        assert fault_in_rows(manifest, "validation", views, np.array([0, -1])) == words


def fault_of(arrays: dict[str, np.ndarray], labels: list[int]) -> str | None:
    return fault_in_rows(make_manifest(), "train", arrays["train/views"], np.array(labels))


def test_views_at_the_limits_are_read(good_path: Path) -> None:
    layout = read_layout_of(good_path)
    with h5py.File(good_path, "r+") as file:
        file["train/views"][0, 1] = (31, 47, 32, 48, 1)
        file["train/views"][1, 1] = (-31, -47, 32, 48, 0)
        file["train/views"][2, 1] = (0, 0, 1, 1, 0)
    reseal(good_path, layout)
    assert open_cache(good_path).splits["train"].views[1, 1].tolist() == [-31, -47, 32, 48, 0]


class TestLogits:
    @pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01])
    def test_infinity_and_nan_are_refused(self, bits: int, good_path: Path) -> None:
        layout, content = read_layout_of(good_path), bytearray(good_path.read_bytes())
        block = block_extents(good_path)[2]
        content[block.end - 2 : block.end] = bits.to_bytes(2, "little")
        good_path.write_bytes(content)
        reseal(good_path, layout)
        words = rf"block 2 of the logits \(bytes {block.offset} to {block.end - 1}\): NaN or inf"
        for opens in (open_cache, verify_cache):
            with pytest.raises(CacheDamagedError, match=words):
                opens(good_path)

    def test_every_float16_is_told_as_numpy_does(self) -> None:
        for bits in range(1 << 16):
            number = np.array(bits, "<u2")
            assert are_finite(number.tobytes()) == bool(np.isfinite(number.view("<f2")))
        assert are_finite(b"")


def test_logits_of_two_splits_are_refused(good_path: Path) -> None:
    layout = read_layout_of(good_path)
    table = replace(layout.block_crc32, size=3 * 4)  # of two blocks and one
    reseal(good_path, replace(layout, logits=layout.logits[:2], block_crc32=table))
    with pytest.raises(CacheDamagedError, match=r"its manifest \(3 splits, and logits of 2\)"):
        open_cache(good_path)
