"""Opening a cache: what is whole is read right, all else is refused by name."""

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_makers import (
    assert_right,
    block_extents,
    flip,
    make_arrays,
    make_manifest,
    manifest_document,
    open_descriptors,
    partial,
    replace_in_manifest,
    reverse_logits,
    stop_after,
    write_block,
)

from kdcache.cache.manifest import Manifest
from kdcache.cache.reader import open_cache, open_caches, read_sealed_manifest
from kdcache.cache.writer import CacheWriter
from kdcache.config import SPLITS
from kdcache.errors import CacheDamagedError, DataError, KdcacheError


class TestWhole:
    def test_logits_can_stay_on_the_disk_and_the_file_is_never_written(
        self, good_path: Path, good: bytes
    ) -> None:
        cache = open_cache(good_path, in_memory=False)
        assert all(isinstance(part.logits, np.memmap) for part in cache.splits.values())
        assert not any(
            isinstance(part.logits, np.memmap) for part in open_cache(good_path).splits.values()
        )
        assert_right(cache, make_manifest())
        cache.splits["train"].logits[:] = 0
        assert good_path.read_bytes() == good

    def test_a_read_only_cache_opens_and_reading_leaves_no_trace(
        self, good_path: Path, good: bytes
    ) -> None:
        good_path.chmod(0o444)
        good_path.parent.chmod(0o555)
        try:
            assert_right(open_cache(good_path), make_manifest())
        finally:
            good_path.parent.chmod(0o755)
        assert good_path.read_bytes() == good and list(good_path.parent.iterdir()) == [good_path]

    def test_nothing_stays_open(self, good_path: Path) -> None:
        before = open_descriptors()
        open_cache(good_path, in_memory=True)
        read_sealed_manifest(good_path)
        assert open_descriptors() == before

    def test_fingerprint_is_read_without_the_logits(self, good_path: Path) -> None:
        manifest = make_manifest()
        assert read_sealed_manifest(good_path) == manifest

    def test_the_file_is_named_where_its_manifest_is_none(self, good_path: Path) -> None:
        replace_in_manifest(good_path, b'"dataset"', b'"datasat"')
        with pytest.raises(KdcacheError, match=f"{good_path}"):
            read_sealed_manifest(good_path)

    @pytest.mark.parametrize(
        ("place", "where"),
        [(20, "its layout record"), (300, "its seal"), (600, "a byte outside the logits")],
    )
    def test_nor_is_it_where_any_other_byte_is_damaged(
        self, place: int, where: str, good_path: Path
    ) -> None:
        flip(good_path, place, 1)
        with pytest.raises(CacheDamagedError, match=f"found {good_path} damaged in {where};"):
            read_sealed_manifest(good_path)


class TestContentDigest:
    def test_it_is_that_of_the_seal(self, good_path: Path, good: bytes) -> None:
        cache = open_cache(good_path)
        assert cache.content_digest == good[264:296].hex()
        assert open_cache(good_path, check_logits=False).content_digest == cache.content_digest

    def test_other_logits_give_another_one_and_the_same_fingerprint(self, good_path: Path) -> None:
        before = open_cache(good_path)
        reverse_logits(good_path)
        after = open_cache(good_path)
        assert after.fingerprint == before.fingerprint
        assert after.content_digest != before.content_digest


class TestNoCache:
    def test_an_unfinished_cache_is_not_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 2)
        with pytest.raises(DataError) as error:
            open_cache(path)
        assert str(error.value) == (
            f"expected a finished cache; found {path}: unfinished;"
            " run precompute_teacher.py again with the same options"
        )
        with pytest.raises(CacheDamagedError, match="damaged in its seal"):
            open_cache(partial(path))

    def test_a_missing_cache_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            open_cache(tmp_path / "t.h5")
        assert str(error.value) == (
            f"expected a finished cache; found {tmp_path}/t.h5: No such file or directory;"
            " run precompute_teacher.py first"
        )

    @pytest.mark.parametrize(
        "content", [b"", b"labels,logits\n", bytes(4096)], ids=["empty", "text", "zeros"]
    )
    def test_another_kind_of_file_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "t.h5").write_bytes(content)
        with pytest.raises(DataError) as error:
            open_cache(tmp_path / "t.h5")
        assert str(error.value) == (
            f"expected a cache written by kdcache; found {tmp_path}/t.h5, which is something else;"
            " give another file"
        )

    @pytest.mark.parametrize("userblock", [0, 512])
    def test_a_plain_hdf5_file_is_refused(self, userblock: int, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "t.h5", "w", userblock_size=userblock) as file:
            file["train/logits"] = np.zeros((2, 1, 3), np.float16)
        with pytest.raises(DataError, match="expected a cache written by kdcache"):
            open_cache(tmp_path / "t.h5")

    def test_a_folder_is_no_cache(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            open_cache(tmp_path)
        assert str(error.value) == (
            f"expected a cache file; found {tmp_path}, which is not a file;"
            " give the path of the .h5 file"
        )


class TestDamage:
    def test_every_flipped_byte_is_refused(self, good_path: Path, good: bytes) -> None:
        for place in range(len(good)):
            for mask in (1 << place % 8, 0xFF):
                flip(good_path, place, mask)
                with pytest.raises(KdcacheError):
                    open_cache(good_path)
                flip(good_path, place, mask)
        assert_right(open_cache(good_path), make_manifest())

    def test_every_truncation_is_refused(self, good_path: Path, good: bytes) -> None:
        for size in range(len(good) - 1, -1, -1):
            os.truncate(good_path, size)
            with pytest.raises(KdcacheError):
                open_cache(good_path)

    @pytest.mark.parametrize(
        ("place", "where"),
        [
            (20, "its layout record"),
            (300, "its seal"),
            (600, "a byte outside the logits"),
            (-1, "a byte outside the logits"),
        ],
    )
    def test_the_damaged_part_is_named(
        self, place: int, where: str, good_path: Path, good: bytes
    ) -> None:
        flip(good_path, place % len(good), 1)
        with pytest.raises(CacheDamagedError, match=f"damaged in {where}; copy it again"):
            open_cache(good_path)

    @pytest.mark.parametrize("block", range(4))
    def test_the_damaged_block_is_named_unless_logits_are_not_checked(
        self, block: int, good_path: Path
    ) -> None:
        extent = block_extents(good_path)[block]
        flip(good_path, extent.end - 1, 0x80)
        words = (
            rf"damaged in block {block} of the logits \(bytes {extent.offset} to {extent.end - 1}\)"
        )
        with pytest.raises(CacheDamagedError, match=words):
            open_cache(good_path)
        with pytest.raises(CacheDamagedError, match=f"{good_path}"):
            open_cache(good_path)
        assert open_cache(good_path, check_logits=False).manifest == make_manifest()


def write_other(path: Path, classes: Sequence[str] = (), **changed: np.ndarray) -> Path:
    """A cache like the good one, of another teacher; some of its arrays changed, or its classes."""
    document = manifest_document(teacher=path.stem)
    if classes:
        document["dataset"]["class_names"] = list(classes)
    manifest = Manifest.from_json(document)
    arrays = make_arrays(manifest) | {name.replace("_", "/", 1): changed[name] for name in changed}
    with CacheWriter(path, manifest, arrays, block_rows=4) as writer:
        for block in writer.missing:
            write_block(writer, manifest, block)
        writer.seal()
    return path


class TestSeveral:
    def test_one_is_that_one(self, good_path: Path) -> None:
        cache = open_caches([good_path])
        assert (cache.fingerprint, cache.members) == (open_cache(good_path).fingerprint, ())

    def test_digests_and_members_are_in_their_order(self, good_path: Path, tmp_path: Path) -> None:
        paths = [good_path, write_other(tmp_path / "b.h5"), write_other(tmp_path / "c.h5")]
        cache, alone = open_caches(paths), [open_cache(path) for path in paths]
        assert cache.path == good_path and [member.path for member in cache.members] == paths
        assert cache.fingerprint == "+".join(one.fingerprint for one in alone)
        assert cache.content_digest == "+".join(one.content_digest for one in alone)

    @pytest.mark.parametrize(
        ("split", "member", "words"),
        [(split, "labels", f"{split} labels") for split in SPLITS]
        + [(split, "image_crc32", f"{split} images") for split in SPLITS]
        + [("train", "views", "train views")],  # of other splits there is the whole image alone
    )
    def test_the_last_one_differs(
        self, split: str, member: str, words: str, good_path: Path, tmp_path: Path
    ) -> None:
        array = make_arrays(make_manifest())[f"{split}/{member}"].copy()
        array[-1] = array[-1] ^ 1 if member != "views" else (0, 0, 32, 48, 0)
        other = write_other(tmp_path / "other.h5", **{f"{split}_{member}": array})
        with pytest.raises(DataError) as error:
            open_caches([good_path, write_other(tmp_path / "b.h5"), other])
        assert str(error.value) == (
            f"expected caches of the same images and views as {good_path};"
            f" found {other} with other {words};"
            " give phase one the same --data, --augment, --views and --seed"
        )

    def test_other_classes(self, good_path: Path, tmp_path: Path) -> None:
        for classes in (("eins", "drei"), ("a", "b")):
            other = write_other(tmp_path / f"{classes[1]}.h5", classes)
            with pytest.raises(DataError, match=f"found {other} with other classes;"):
                open_caches([good_path, other])

    def test_logits_are_checked_unless_they_are_not_to_be(
        self, good_path: Path, tmp_path: Path
    ) -> None:
        other = write_other(tmp_path / "other.h5")
        flip(other, block_extents(other)[0].offset, 1)
        with pytest.raises(CacheDamagedError, match=f"{other}"):
            open_caches([good_path, other])
        assert len(open_caches([good_path, other], check_logits=False).members) == 2
