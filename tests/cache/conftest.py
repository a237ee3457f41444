"""A whole cache, for the tests that read, resume or damage one."""

from pathlib import Path

import pytest
from cache_makers import make_manifest, write_cache


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an undisturbed cache of `make_manifest()`."""
    path = tmp_path_factory.mktemp("good") / "t.h5"
    write_cache(path, make_manifest())
    return path.read_bytes()


@pytest.fixture
def good_path(good: bytes, tmp_path: Path) -> Path:
    (tmp_path / "t.h5").write_bytes(good)
    return tmp_path / "t.h5"
