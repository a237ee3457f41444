"""A cache and an image folder, for the tests of the command lines."""

from pathlib import Path

import numpy as np
import pytest
from commands import run
from phases import SHAPES, TINY_TEACHER, VIEWS
from PIL import Image

import precompute_teacher


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 100 shapes with three views and a teacher of 20 classes. No test changes it."""
    path = tmp_path_factory.mktemp("cache") / "teacher.h5"
    arguments = [*SHAPES, *TINY_TEACHER, *VIEWS, "--cache", path]
    assert run(precompute_teacher.main, *arguments) == 0
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes, 12 training and 4 test images of 8 x 8 pixels each."""
    for split, count in (("train", 12), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            inside = tmp_path / "images" / split / name
            inside.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), (40 + 100 * label, 10 * number, 0), np.uint8)
                Image.fromarray(pixels).save(inside / f"{number:02}.png")
    return tmp_path / "images"
