"""Folders of images that stay in their files: the same pixels, decoded when they are looked at."""

import os
from collections.abc import Iterator
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
from kdcache.data import Prefetcher
from kdcache.data.datasets import load_images
from kdcache.data.files import image_folder
from kdcache.data.files.finding import list_classes
from kdcache.data.files.image_folder import LazyImages
from kdcache.data.splits import ImageData
from kdcache.engine.training_data import load_training_data
from kdcache.errors import DataError


def load(root: Path, stream: bool | None = True, **arguments: int) -> ImageData:
    return load_images("folder", root, stream=stream, **arguments)


def kept(root: Path) -> list[str]:
    """Names of the files that are left in a folder of images."""
    return sorted(path.name for path in root.iterdir() if path.is_file())


def same(one: ImageData, other: ImageData) -> bool:
    pairs = list(zip(one.splits.values(), other.splits.values(), strict=True))
    return (one.class_names, one.image_shape) == (other.class_names, other.image_shape) and all(
        torch.equal(a.images[:], b.images[:]) and torch.equal(a.labels, b.labels) for a, b in pairs
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


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that are decoded, one after the other."""
    files: list[Path] = []
    decode = image_folder.decode

    def watched(path: Path, shape: tuple[int, int]) -> np.ndarray:
        files.append(path)
        return decode(path, shape)

    monkeypatch.setattr(image_folder, "decode", watched)
    yield files


class TestTheSame:
    @pytest.mark.parametrize("folder", ["alike", "mixed"])
    def test_as_in_memory(self, folder: str, request: pytest.FixtureRequest) -> None:
        root = request.getfixturevalue(folder)
        in_memory, in_files = load(root, False, store_size=4), load(root, store_size=4)
        assert (in_memory.streamed, in_files.streamed) == (False, True)
        assert same(in_files, in_memory)
        assert in_files.image_shape == ((6, 6) if folder == "alike" else (4, 4))
        for split, part in in_memory.splits.items():
            assert in_files.splits[split].digest() == part.digest()
            assert (in_files.splits[split].row_checksums() == part.row_checksums()).all()
        assert kept(root) == []  # no copy of the pixels

    def test_indexed_as_a_tensor(self, alike: Path) -> None:
        tensor = load(alike, False).splits["train"].images
        images = load(alike).splits["train"].images
        assert isinstance(images, LazyImages) and isinstance(tensor, torch.Tensor)
        assert images.shape == tensor.shape and len(images) == len(tensor) == 10
        rows = torch.tensor([7, 0, 7, -1])
        assert torch.equal(images[rows], tensor[rows]) and torch.equal(images[rows,], tensor[rows])
        assert torch.equal(images[3], tensor[3]) and torch.equal(images[-2], tensor[-2])
        assert torch.equal(images[4:9:2], tensor[4:9:2])
        assert images[torch.zeros(0, dtype=torch.int64)].shape == (0, 3, 6, 6)
        with pytest.raises(IndexError):
            images[10]

    def test_a_selection_stays_in_its_files(self, alike: Path, decoded: list[Path]) -> None:
        train = load(alike).splits["train"]
        chosen = train.select(np.array([7, 2]))
        assert decoded == [] and isinstance(chosen.images, LazyImages)
        every = numbers_of(train)
        assert numbers_of(chosen) == [every[7], every[2]]
        assert chosen.files == [train.files[7], train.files[2]]

    def test_batches_are_decoded_one_ahead(self, alike: Path, decoded: list[Path]) -> None:
        images, rows = load(alike).splits["train"].images, torch.tensor([5, 4, 3, 2, 1, 0])
        tensor = load(alike, False).splits["train"].images
        decoded.clear()
        prefetcher = Prefetcher(images, torch.device("cpu"))  # streamed, though not asked to be
        batches = prefetcher.batches([2, 2, 2], rows)
        assert decoded == [] and torch.equal(next(batches), tensor[rows[:2]])
        assert torch.equal(torch.cat(list(batches)), tensor[rows[2:]])
        assert len(decoded) == 6


def numbers_of(split: Any) -> list[tuple[int, int]]:
    """As `numbers`, of a split whose images are in files."""
    return numbers(type(split)(split.images[:], split.labels))


def test_nothing_is_decoded_until_it_is_looked_at(alike: Path, decoded: list[Path]) -> None:
    splits = load(alike).splits
    assert decoded == []
    for _ in ("once for both, and never again", "and never again"):
        for part in splits.values():
            part.digest()
            part.row_checksums()
        assert len(decoded) == len(set(decoded)) == 24


class TestFaults:
    def test_an_image_that_cannot_be_decoded_is_named(self, alike: Path) -> None:
        bad = alike / "test" / "a" / "004.png"
        bad.write_bytes(bad.read_bytes()[:45])
        test = load(alike).splits["test"]
        for look in (test.digest, lambda: list(Prefetcher(test.images, CPU).batches([12], ALL))):
            with pytest.raises(DataError, match=f"expected an image that Pillow reads; .* {bad} "):
                look()

    def test_one_that_vanishes_is_named(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = alike / "train" / "a" / "004.png"

        def list_then_remove(folder: Path) -> Any:
            found = list_classes(folder)
            bad.unlink(missing_ok=True)
            return found

        monkeypatch.setattr("kdcache.data.datasets.list_classes", list_then_remove)
        with pytest.raises(DataError, match=f"expected an image that Pillow reads; found {bad} "):
            load(alike)

    def test_an_interruption_arrives(self, alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(path: Path, shape: tuple[int, int]) -> np.ndarray:
            raise KeyboardInterrupt

        monkeypatch.setattr(image_folder, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(alike).splits["test"].digest()


CPU, ALL = torch.device("cpu"), torch.arange(12)


class TestWhichOnesAreStreamed:
    @pytest.mark.parametrize(
        ("folder", "store_size", "memory", "expected"),
        [
            ("alike", 4, 2 * 24 * 108 + 1, False),
            ("alike", 4, 2 * 24 * 108, True),
            # the stored crop would be too large, but is not needed
            ("alike", 99, 2 * 24 * 108 + 1, False),
            # the first image's size would be, but is not what the images get
            ("mixed", 4, 2 * 24 * 48 + 1, False),
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
        assert data.streamed == expected
        assert same(data, forbidden) and not forbidden.streamed

    def test_small_ones_are_not_and_other_datasets_are_as_asked(
        self, alike: Path, tmp_path: Path
    ) -> None:
        assert not load(alike, None).streamed
        for stream in (None, False, True):
            data = load_images("shapes", tmp_path / "none", limit=100, stream=stream)
            assert data.streamed == bool(stream)
            assert data.with_train(np.arange(5)).streamed == bool(stream)
        assert not (tmp_path / "none").exists()

    def test_the_option_asks_for_it_and_shapes_no_result(self, alike: Path, tmp_path: Path) -> None:
        phase_one = ["--dataset", "folder", "--data", alike, "--image-size", 6]
        phase_one += ["--teacher", "tiny_models:tiny_teacher"]
        caches = {stream: tmp_path / f"{stream}.h5" for stream in (False, True)}
        for stream, cache in caches.items():
            more = ["--cache", cache, *["--stream"] * stream]
            assert run(precompute_teacher.main, *phase_one, *more) == 0
        assert len({open_cache(cache).fingerprint for cache in caches.values()}) == 1
        for options in (
            TrainOptions(cache=caches[False], data=alike),
            TrainOptions(dataset="folder", data=alike, alpha=0),
        ):
            assert not load_training_data(options).images.streamed
            assert load_training_data(options.replace(stream=True)).images.streamed
        assert kept(alike) == []
