"""A damaged cache, for the tests of what looks at one."""

import shutil
from pathlib import Path

import pytest
from cache_makers import block_extents, flip


@pytest.fixture
def damaged(shapes_cache: Path, tmp_path: Path) -> Path:
    """A copy with one bit of the validation split's logits turned over: block 1."""
    path = Path(shutil.copy(shapes_cache, tmp_path / "damaged.h5"))
    flip(path, block_extents(path)[1].offset + 5, 4)
    return path
