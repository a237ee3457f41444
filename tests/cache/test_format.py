"""docs/format.md is enough to write a cache: its independent writer and ours agree."""

from pathlib import Path

import numpy as np
import pytest
from cache_makers import (
    BLOCK_ROWS,
    CLASSES,
    assert_right,
    logits_of,
    make_arrays,
    make_manifest,
    manifest_document,
)
from torture.sealer import build, record_of, seal

from kdcache.cache import verify_cache

V01 = Path(__file__).parents[1] / "data" / "v0.1" / "teacher.h5"


def test_a_cache_of_the_independent_writer_is_read(tmp_path: Path) -> None:
    manifest = make_manifest()
    arrays = make_arrays(manifest)
    for split, part in manifest.splits.items():
        logits = logits_of(manifest, split).astype(np.float16)
        arrays[f"{split}/logits"] = logits.reshape(part.rows, part.views, CLASSES)
    path = tmp_path / "t.h5"
    path.write_bytes(build(manifest_document(), arrays, BLOCK_ROWS))
    assert_right(verify_cache(path), manifest)


def test_it_seals_our_cache_as_we_do(good: bytes) -> None:
    sealed = bytearray(good)
    seal(sealed, record_of(good))
    assert sealed == good
    assert record_of(good).version == 2


@pytest.mark.parametrize("path", [V01], ids=["0.1.0"])
def test_it_seals_format_1_as_that_was(path: Path) -> None:
    sealed = bytearray(path.read_bytes())
    seal(sealed, record_of(sealed))
    assert sealed == path.read_bytes()
    assert record_of(sealed).version == 1
