"""Shared by all tests: no example database, no threads that fight over cores, data computed from
the row's index.
"""

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import torch

from kdcache.data.splits import ImageData, Split

hypothesis.settings.register_profile("kdcache", deadline=None, max_examples=40, database=None)
hypothesis.settings.load_profile("kdcache")
torch.set_num_threads(1)


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
    """Makes a divided dataset of `train` + 10 + 10 images computed from their indices."""

    def make(train: int = 24, classes: int = 10, side: int = 16) -> ImageData:
        counts = {"train": (train, 0), "validation": (10, 1000), "test": (10, 2000)}
        splits = {
            name: indexed_split(count, classes, side, first)
            for name, (count, first) in counts.items()
        }
        return ImageData("indexed", tuple(f"class {number}" for number in range(classes)), splits)

    return make
