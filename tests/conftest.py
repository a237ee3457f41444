"""Shared by all tests: no example database, no threads that fight over cores, small data."""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from commands import run

import precompute_teacher
from kdcache.config import registry
from kdcache.data import load_images
from kdcache.data.splits import ImageData, Split

hypothesis.settings.register_profile("kdcache", deadline=None, max_examples=40, database=None)
hypothesis.settings.load_profile("kdcache")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def free_models() -> None:
    """The tests' own models need not be named again, as those of the package need not.

    tests/test_code_named_by_files.py does without.
    """
    registry._OWN += ("tiny_models:", "odd_teachers:")


def indexed_split(count: int, classes: int, side: int, first: int = 0) -> Split:
    """Images whose every pixel depends on the row's index, so that a misaligned row cannot pass."""
    index = np.arange(first, first + count)[:, None]
    pixels = np.rint(
        127.5
        + 127.5
        * np.sin(1 + 0.7 * index + 0.31 * np.arange(3 * side * side) * (1 + index % classes))
    )
    images = torch.from_numpy(pixels.astype(np.uint8).reshape(count, 3, side, side))
    return Split(images, torch.from_numpy(np.arange(first, first + count) % classes))


@pytest.fixture(scope="session")
def indexed_images() -> Callable[..., ImageData]:
    """Makes a dataset, split, of `train` + 10 + 10 images computed from their indices."""

    def make(train: int = 24, classes: int = 10, side: int = 16) -> ImageData:
        counts = {"train": (train, 0), "validation": (10, 1000), "test": (10, 2000)}
        splits = {
            name: indexed_split(count, classes, side, first)
            for name, (count, first) in counts.items()
        }
        return ImageData("indexed", tuple(f"class {number}" for number in range(classes)), splits)

    return make


@pytest.fixture(scope="session")
def shapes_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 100 shapes with three views and a teacher of 20 classes. No test changes it."""
    path = tmp_path_factory.mktemp("shapes") / "teacher.h5"
    data = ["--dataset", "shapes", "--limit", 100, "--views", 3, "--augment", "crop-flip"]
    teacher = ["--teacher", "tiny_models:tiny_teacher", "--image-size", 16]
    assert run(precompute_teacher.main, *data, *teacher, "--cache", path) == 0
    return path


@pytest.fixture(scope="session")
def shapes_images() -> ImageData:
    """The images that `shapes_cache` was made from."""
    return load_images("shapes", Path(), limit=100)
