"""Folders of images that are kept decoded in a file: the same pixels, found again, and all."""

import errno
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coded_images import coded, numbers, save_png, write_folder
from commands import run

import precompute_teacher
from kdcache.cache.reader import open_cache
from kdcache.config import TrainOptions
from kdcache.data.datasets import load_images
from kdcache.data.files import image_folder, mapped_pixels
from kdcache.data.files.finding import image_files, list_classes
from kdcache.data.files.mapped_pixels import find_pixels
from kdcache.data.splits import ImageData
from kdcache.engine.training_data import load_training_data
from kdcache.errors import DataError


def load(root: Path, stream: bool | None = True, **arguments: int) -> ImageData:
    return load_images("folder", root, stream=stream, **arguments)


def kept(root: Path) -> list[str]:
    """Names of the files that are left in a folder of images."""
    return sorted(path.name for path in root.iterdir() if path.is_file())


def no_decoding(path: Path, shape: tuple[int, int]) -> np.ndarray:
    raise AssertionError(f"{path} is decoded")


def same(one: ImageData, other: ImageData) -> bool:
    pairs = list(zip(one.splits.values(), other.splits.values(), strict=True))
    return (one.class_names, one.image_shape) == (other.class_names, other.image_shape) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


@pytest.fixture
def alike(tmp_path: Path) -> Path:
    """12 training and 12 test images of 6 x 6 pixels, 108 bytes each."""
    return write_folder(tmp_path / "alike", {"a": 6, "b": 6})


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """The same, but one test image is 9 x 12."""
    write_folder(tmp_path / "mixed", {"a": 6, "b": 6})
    save_png(tmp_path / "mixed" / "test" / "b" / "003.png", coded(1, 103, 9, 12))
    return tmp_path / "mixed"


class TestTheSame:
    @pytest.mark.parametrize("folder", ["alike", "mixed"])
    def test_as_in_memory(self, folder: str, request: pytest.FixtureRequest) -> None:
        root = request.getfixturevalue(folder)
        in_memory = load(root, False, store_size=4)
        assert kept(root) == []
        for _ in ("made", "found again"):
            in_file = load(root, store_size=4)
            assert same(in_file, in_memory)
            assert in_file.image_shape == ((6, 6) if folder == "alike" else (4, 4))
            for split, part in in_memory.splits.items():
                assert in_file.splits[split].digest() == part.digest()
                assert (in_file.splits[split].row_checksums() == part.row_checksums()).all()
            assert (in_memory.streamed, in_file.streamed, len(kept(root))) == (False, True, 1)

    def test_the_file_is_numpys_with_the_splits_one_after_the_other(self, alike: Path) -> None:
        splits = load(alike).splits
        pixels = np.load(alike / kept(alike)[0])
        assert pixels.dtype == np.uint8
        assert (pixels == torch.cat([part.images for part in splits.values()]).numpy()).all()

    def test_the_splits_are_slices_of_the_mapped_file(self, alike: Path) -> None:
        splits = load(alike).splits
        assert len({part.images.untyped_storage().data_ptr() for part in splits.values()}) == 1
        assert [part.images.storage_offset() for part in splits.values()] == [0, 10 * 108, 12 * 108]

    def test_a_selection_lies_in_memory(self, alike: Path) -> None:
        train = load(alike).splits["train"]
        chosen = train.select(np.array([7, 2]))
        assert numbers(chosen) == [numbers(train)[7], numbers(train)[2]]
        assert chosen.images.untyped_storage().nbytes() == 2 * 108

    def test_what_is_written_to_the_images_does_not_reach_the_file(self, alike: Path) -> None:
        images = load(alike).splits["train"].images
        before = (alike / kept(alike)[0]).read_bytes()
        images[:] = 255
        assert (images == 255).all() and (alike / kept(alike)[0]).read_bytes() == before
        assert same(load(alike), load(alike, False))

    def test_the_file_is_no_image_and_no_class(self, alike: Path) -> None:
        before = image_files([alike])
        load(alike)
        assert image_files([alike]) == before and load(alike).class_names == ("a", "b")


class TestFoundAgain:
    def test_nothing_is_decoded_twice(
        self, alike: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = load(alike), load(mixed)
        monkeypatch.setattr(image_folder, "decode", no_decoding)
        assert same(load(alike), first[0]) and same(load(mixed), first[1])

    @pytest.mark.parametrize("folder", ["alike", "mixed"])
    def test_nor_in_the_first_call(
        self, folder: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decoded, decode = [], image_folder.decode
        monkeypatch.setattr(
            image_folder, "decode", lambda path, shape: decoded.append(path) or decode(path, shape)
        )
        load(request.getfixturevalue(folder), store_size=4)
        assert len(decoded) == len(set(decoded)) == 24

    def test_several_may_make_it_at_once(self, alike: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(load, [alike] * 4))
        assert all(same(data, load(alike, False)) for data in found)
        assert len(kept(alike)) == 1

    def test_nor_at_another_place_or_over_links(
        self, alike: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = load(alike)
        monkeypatch.setattr(image_folder, "decode", no_decoding)
        (tmp_path / "links").mkdir()
        for split in ("train", "test"):
            (tmp_path / "links" / split).symlink_to(alike / split)
        shutil.copy(alike / kept(alike)[0], tmp_path / "links")
        monkeypatch.chdir(tmp_path / "links")
        assert same(load(Path()), first) and same(load(Path("../links")), first)
        alike.rename(tmp_path / "elsewhere")
        assert same(load(tmp_path / "elsewhere"), first)

    @pytest.mark.parametrize(
        ("change", "arguments"),
        [
            (lambda root: save_png(root / "train" / "a" / "000.png", coded(0, 200)), {}),
            (lambda root: os.utime(root / "test" / "b" / "002.png", ns=(0, 1)), {}),
            (lambda root: save_png(root / "test" / "b" / "9.png", coded(1, 9)), {}),
            (lambda root: (root / "train" / "b" / "000.png").unlink(), {}),
            (
                lambda root: (root / "train" / "b" / "000.png").rename(
                    root / "train" / "b" / "9.png"
                ),
                {},
            ),
            (lambda root: None, {"split_seed": 1}),
            (lambda root: None, {"limit": 10}),
        ],
        ids=[
            "changed",
            "touched",
            "added",
            "removed",
            "renamed",
            "split_seed",
            "limit",
        ],
    )
    def test_whatever_shapes_the_pixels_makes_another_file(
        self, change: Callable[[Path], Any], arguments: dict[str, int], alike: Path
    ) -> None:
        load(alike)
        before = kept(alike)
        change(alike)
        assert same(load(alike, **arguments), load(alike, False, **arguments))
        assert len(kept(alike)) == 2 and set(before) < set(kept(alike))

    def test_so_does_the_size_to_which_they_are_brought(self, alike: Path, mixed: Path) -> None:
        for root, files in ((mixed, 2), (alike, 1)):  # alike, they have one size anyway
            for store_size in (3, 4):
                one, other = (load(root, stream, store_size=store_size) for stream in (True, False))
                assert same(one, other)
            assert len(kept(root)) == files

    def test_so_does_another_decoder(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        load(alike)
        monkeypatch.setattr("PIL.__version__", "0.1")
        load(alike)
        assert len(kept(alike)) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: os.truncate(path, path.stat().st_size - 1),
            lambda path: os.truncate(path, path.stat().st_size + 1),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
            lambda path: np.save(path, np.zeros((24, 3, 6, 7), np.uint8)),
            lambda path: np.save(path, np.zeros((24, 3, 6, 6), np.int8)),
            lambda path: np.save(path, np.zeros((24, 3, 6, 6), np.uint8, order="F")),
        ],
        ids=["shorter", "longer", "empty", "random", "shape", "type", "order"],
    )
    def test_one_that_cannot_be_right_is_made_again(
        self, damage: Callable[[Path], Any], alike: Path
    ) -> None:
        load(alike)
        before = kept(alike)
        damage(alike / before[0])
        assert same(load(alike), load(alike, False))
        assert kept(alike) == before and np.load(alike / before[0]).shape == (24, 3, 6, 6)


class TestNothingIsLeft:
    def test_an_image_that_cannot_be_decoded_is_named(self, alike: Path) -> None:
        bad = alike / "test" / "a" / "004.png"
        bad.write_bytes(bad.read_bytes()[:45])
        with pytest.raises(DataError, match=f"expected an image that Pillow reads; found {bad} "):
            load(alike)
        assert kept(alike) == []

    def test_one_that_vanishes_is_named(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = alike / "train" / "a" / "004.png"

        def list_then_remove(folder: Path) -> Any:
            found = list_classes(folder)
            bad.unlink(missing_ok=True)
            return found

        monkeypatch.setattr("kdcache.data.datasets.list_classes", list_then_remove)
        with pytest.raises(DataError, match=f"expected an image that Pillow reads; found {bad} "):
            load(alike)
        assert kept(alike) == []

    def test_after_an_interruption(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(path: Path, shape: tuple[int, int]) -> np.ndarray:
            raise KeyboardInterrupt

        monkeypatch.setattr(image_folder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(alike)
        assert kept(alike) == []

    def test_a_full_disk_is_refused_before_anything_is_decoded(
        self, alike: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def full(fd: int, offset: int, size: int) -> None:
            asked.append(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        monkeypatch.setattr(image_folder, "decode", no_decoding)
        with pytest.raises(DataError) as error:
            load(alike)
        words = str(error.value).split("; ")
        assert words[0].startswith(f"expected room and the right to write {alike}/kdcache-")
        assert words[0].endswith(".npy, 0.0 GB of decoded images")
        assert words[1:] == [
            "found No space left on device",
            "free some space, give a --data that can be written"
            " (with links to train and test in it),"
            " or a smaller --limit or --store-size",
        ]
        assert kept(alike) == []
        monkeypatch.undo()
        load(alike)
        assert asked == [(alike / kept(alike)[0]).stat().st_size]

    def test_a_disk_that_is_full_later_is_refused_too(
        self, alike: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(fd: int, data: memoryview, offset: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(
            DataError,
            match=r"kdcache-.* of decoded images; found No space left on device; free some space",
        ):
            load(alike)
        assert kept(alike) == []

    def test_a_folder_that_cannot_be_written_is_named(
        self, alike: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(path: Path, mode: str, **arguments: Any) -> Any:
            if "x" in mode:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return open(path, mode, **arguments)

        load(alike)
        monkeypatch.setattr(mapped_pixels, "open", read_only, raising=False)
        load(alike)  # what is there can be read
        with pytest.raises(
            DataError, match=r"found Read-only file system; .*give a --data that can be written"
        ):
            load(alike, split_seed=1)


def test_writes_that_the_kernel_cuts_short_go_on(
    alike: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: write(fd, data[:50], offset))
    assert same(load(alike), load(alike, False))


def test_a_file_larger_than_the_memory_can_be_mapped(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shape = (2 * memory // (3 * 256 * 256), 3, 256, 256)
    with open(tmp_path / "sparse.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        file.truncate(file.tell() + 3 * 256 * 256 * shape[0])
    pixels = torch.from_numpy(find_pixels(tmp_path / "sparse.npy", shape))
    assert pixels.shape == shape and pixels[-1].sum() == 0


class TestWhichOnesAreStreamed:
    @pytest.mark.parametrize(
        ("folder", "store_size", "memory", "expected"),
        [
            ("alike", 4, 2 * 24 * 108 + 1, False),
            ("alike", 4, 2 * 24 * 108, True),
            (
                "alike",
                99,
                2 * 24 * 108 + 1,
                False,
            ),  # the stored crop would be too large, but is not needed
            (
                "mixed",
                4,
                2 * 24 * 48 + 1,
                False,
            ),  # the first image's size would be, but is not what the images get
            ("mixed", 4, 2 * 24 * 48, True),
            ("mixed", 99, 2 * 24 * 108 + 1, True),
        ],
    )
    def test_the_size_decides(
        self, folder: str, store_size: int, memory: int, expected: bool,
        request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        root = request.getfixturevalue(folder)
        forbidden = load(root, False, store_size=store_size)
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}.__getitem__)
        data = load(root, None, store_size=store_size)
        assert (data.streamed, len(kept(root))) == (expected, int(expected))
        assert same(data, forbidden)
        again = load(root, False, store_size=store_size)
        assert same(again, forbidden) and not again.streamed

    def test_small_ones_are_not_and_other_datasets_need_no_file(
        self, alike: Path, tmp_path: Path
    ) -> None:
        assert not load(alike, None).streamed and kept(alike) == []
        for stream in (None, False, True):
            data = load_images("shapes", tmp_path / "none", limit=100, stream=stream)
            assert data.streamed == bool(stream)
            assert data.with_train(np.arange(5)).streamed == bool(stream)
        assert not (tmp_path / "none").exists()

    def test_the_option_asks_for_it_and_shapes_no_result(self, alike: Path, tmp_path: Path) -> None:
        phase_one = [
            "--dataset",
            "folder",
            "--data",
            alike,
            "--teacher",
            "tiny_models:tiny_teacher",
            "--image-size",
            6,
        ]
        caches = {stream: tmp_path / f"{stream}.h5" for stream in (False, True)}
        for stream, cache in caches.items():
            assert (
                run(precompute_teacher.main, *phase_one, "--cache", cache, *["--stream"] * stream)
                == 0
            )
            assert len(kept(alike)) == stream
        assert len({open_cache(cache).fingerprint for cache in caches.values()}) == 1
        for options in (
            TrainOptions(cache=caches[False], data=alike),
            TrainOptions(dataset="folder", data=alike, alpha=0),
        ):
            assert not load_training_data(options).images.streamed
            assert load_training_data(options.replace(stream=True)).images.streamed
            assert len(kept(alike)) == 1  # phase two finds what phase one made
