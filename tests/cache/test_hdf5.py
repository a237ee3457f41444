"""The HDF5 structure: any tool reads it, and a forged one is refused though its checksums hold.

In a forgery layout record, checksums and seal are all valid: only what HDF5 itself says, and how
that fits the manifest, can still give it away.
"""

import os
import stat
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from cache_makers import (
    CLASSES,
    forge_manifest,
    logits_of,
    make_arrays,
    make_manifest,
    manifest_document,
    read_layout_of,
    replace_in_manifest,
    reseal,
    write_cache,
)

from kdcache.cache import hdf5
from kdcache.cache.reader import open_cache
from kdcache.cache.seal import Extent
from kdcache.errors import CacheDamagedError, OptionError


def test_any_hdf5_tool_can_read_it(good_path: Path) -> None:
    manifest = make_manifest()
    with h5py.File(good_path, "r") as file:
        assert bytes(file["manifest"][:]) == manifest.to_bytes()
        expected = logits_of(manifest, "train").astype(np.float16).reshape(4, 2, CLASSES)
        assert (file["train/logits"][:] == expected).all()


Tamper = Callable[[h5py.File, Path], Any]


def instead(name: str, make: Callable[[Path], Any]) -> Tamper:
    """Put what `make(folder)` returns in the place of a member."""

    def tamper(file: h5py.File, folder: Path) -> None:
        del file[name]
        file[name] = make(folder)

    return tamper


def more(name: str) -> Tamper:
    def tamper(file: h5py.File, folder: Path) -> None:
        file[name] = np.arange(4)

    return tamper


def without(name: str) -> Tamper:
    def tamper(file: h5py.File, folder: Path) -> None:
        del file[name]

    return tamper


def other_labels(**storage: Any) -> Tamper:
    """Labels of the right shape and type that are stored otherwise."""

    def tamper(file: h5py.File, folder: Path) -> None:
        del file["train/labels"]
        file.create_dataset("train/labels", (4,), "<i8", **storage)

    return tamper


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(32))
    other_labels(external=[(str(folder / "secret"), 0, 32)])(file, folder)


def other_file(folder: Path) -> str:
    with h5py.File(folder / "other.h5", "w") as other:
        other["labels"] = np.arange(4)
    return "other.h5"


def virtual(file: h5py.File, folder: Path) -> None:
    del file["train/labels"]
    layout = h5py.VirtualLayout((4,), "<i8")
    layout[:] = h5py.VirtualSource(str(folder / other_file(folder)), "labels", (4,))
    file.create_virtual_dataset("train/labels", layout)


def group_for_labels(file: h5py.File, folder: Path) -> None:
    del file["train/labels"]
    file.create_group("train/labels")


def swapped_logits(file: h5py.File, folder: Path) -> None:
    """Right shape, right type, contiguous, but in another place than the checksummed one."""
    file["train"].move("logits", "old")
    file["train/logits"] = np.zeros((4, 2, CLASSES), np.float16)
    del file["train/old"]


# How a file is tampered with, and what the refusal says was found.
FORGERIES: dict[str, tuple[Tamper, str]] = {
    "soft link": (
        instead("train/labels", lambda folder: h5py.SoftLink("/train/image_crc32")),
        "train/labels, which is not a hard link",
    ),
    "external link": (
        instead("train/labels", lambda folder: h5py.ExternalLink(other_file(folder), "/labels")),
        "train/labels, which is not a hard link",
    ),
    "never allocated": (other_labels(), r"train/labels as \(4,\) int64"),
    "external storage": (external_storage, r"train/labels as \(4,\) int64"),
    "virtual": (virtual, r"train/labels as \(4,\) int64"),
    "chunked": (other_labels(chunks=(2,)), r"train/labels as \(4,\) int64"),
    "compressed": (
        other_labels(data=np.arange(4), compression="gzip"),
        r"train/labels as \(4,\) int64",
    ),
    "other type": (
        instead("train/labels", lambda folder: np.arange(4, dtype=">i8")),
        r"train/labels as \(4,\) >i8",
    ),
    "other shape": (
        instead("train/labels", lambda folder: np.arange(5)),
        r"train/labels as \(5,\) int64",
    ),
    "missing": (without("train/labels"), "datasets train/labels"),
    "one more": (more("extra"), "datasets extra"),
    "one more in a split": (more("test/extra"), "datasets test/extra"),
    "a dataset for a split": (
        instead("train", lambda folder: np.arange(4)),
        "train, which is not a group",
    ),
    "a split missing": (without("train"), "no train"),
    "a split linked": (
        instead("train", lambda folder: h5py.SoftLink("/test")),
        "train, which is not a hard link",
    ),
    "a group for a dataset": (group_for_labels, "train/labels, which is not a dataset"),
    "elsewhere": (swapped_logits, "train/logits elsewhere than its layout record says"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_structure_is_refused(name: str, good_path: Path) -> None:
    tamper, found = FORGERIES[name]
    layout = read_layout_of(good_path)
    with h5py.File(good_path, "r+", libver=("earliest", "v110")) as file:
        tamper(file, good_path.parent)
    reseal(good_path, layout)
    words = (
        "expected the datasets that the manifest announces;"
        f" found {good_path} with {found}; do not use this file"
    )
    with pytest.raises(CacheDamagedError, match=words):
        open_cache(good_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError, RuntimeError, KeyError, IndexError, TypeError, ValueError, UnicodeDecodeError,
        AttributeError, OverflowError, MemoryError,
    ],
)  # fmt: skip
def test_whatever_libhdf5_says_of_a_structure_is_told_in_one_line(error: type[Exception]) -> None:
    arguments = ("utf-8", b"x", 0, 1, "no") if error is UnicodeDecodeError else ()
    with pytest.raises(CacheDamagedError) as told, hdf5._refusing_parse_errors(Path("t.h5")):
        raise error(*arguments)
    assert str(told.value) == (
        "expected the datasets that the manifest announces; found t.h5 with a structure that HDF5"
        f" cannot read ({error.__name__}); do not use this file"
    )


def test_the_file_is_named_where_libhdf5_cannot_read_it(good_path: Path) -> None:
    content = bytearray(good_path.read_bytes())
    content[512:520] = b"no HDF5."  # its signature, behind the user block
    layout = read_layout_of(good_path)
    good_path.write_bytes(content)
    reseal(good_path, layout)
    with pytest.raises(CacheDamagedError, match=f"found {good_path} with a structure that HDF5"):
        open_cache(good_path)


def test_a_block_that_is_not_of_whole_rows_is_refused(good_path: Path) -> None:
    replace_in_manifest(good_path, b'"classes": 3', b'"classes": 9')
    words = r"manifest \(splits.train: 144 bytes of logits, and there are 48\)"
    with pytest.raises(CacheDamagedError, match=words):
        open_cache(good_path)


def test_blocks_of_half_rows_are_refused(good_path: Path) -> None:
    """Of 26 bytes: no whole number of rows of 6, and as many blocks as of 24."""
    reseal(good_path, replace(read_layout_of(good_path), block_bytes=26))
    with pytest.raises(CacheDamagedError, match="no whole rows in blocks of 26 bytes"):
        open_cache(good_path)


def test_an_extent_beyond_the_file_is_refused(good_path: Path) -> None:
    """The last of the labels' bytes would lie behind the end of the file."""
    layout, content = read_layout_of(good_path), good_path.read_bytes()
    with h5py.File(good_path) as file:
        offset = file["train/labels"].id.get_offset()
    # HDF5 counts from the end of the user block
    old, new = ((place - 512).to_bytes(8, "little") for place in (offset, len(content) - 8))
    assert content.count(old) == 1
    good_path.write_bytes(content.replace(old, new))
    reseal(good_path, layout)
    with pytest.raises(CacheDamagedError, match="do not use this file"):
        open_cache(good_path)


def test_an_extent_beyond_the_file_is_refused_though_hdf5_let_it_pass(
    good_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions of libhdf5 before 2.0 did."""
    end, real = good_path.stat().st_size, hdf5._extent

    def extent(path: Path, file: h5py.File, name: str, spec: hdf5.ArraySpec) -> Extent:
        found = real(path, file, name, spec)
        return Extent(end - spec.size + 1, spec.size) if name == "train/labels" else found

    monkeypatch.setattr(hdf5, "_extent", extent)
    with pytest.raises(CacheDamagedError, match="train/labels elsewhere than"):
        open_cache(good_path)


@pytest.mark.parametrize("name", ["manifest", "block_crc32"])
def test_an_extent_elsewhere_than_hdf5_sees_it_is_refused(name: str, good_path: Path) -> None:
    """The same bytes a second time, behind the end of HDF5's file."""
    layout, content = read_layout_of(good_path), good_path.read_bytes()
    extent = getattr(layout, name)
    good_path.write_bytes(content + content[extent.offset : extent.end])
    reseal(good_path, replace(layout, **{name: Extent(len(content), extent.size)}))
    with pytest.raises(CacheDamagedError, match=f"{name} elsewhere than its layout record says"):
        open_cache(good_path)


def test_a_cache_is_no_program(tmp_path: Path) -> None:
    write_cache(tmp_path / "t.h5", make_manifest())
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "t.h5").stat().st_mode) == 0o644 & ~umask


def test_labels_that_no_cache_can_have_are_refused(tmp_path: Path) -> None:
    arrays = make_arrays(make_manifest())
    arrays["test/labels"] = np.array([2])
    with pytest.raises(OptionError) as error:
        hdf5.create_file(tmp_path / "t.h5", make_manifest(), arrays, 4)
    assert error.value.expected == "views that show the image, and labels of its classes"
    assert error.value.remedy == "correct --augment or the dataset"
    assert not (tmp_path / "t.h5").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"rows": 2**31 - 1}, "splits.train: 25769803764 bytes of logits, and there are 48"),
        ({"views": 1000}, "splits.train: 24000 bytes of logits, and there are 48"),
        ({"classes": 2**20}, "splits.train: 16777216 bytes of logits, and there are 48"),
        ({"rows": 2**31 - 1, "views": 1000, "classes": 2**20}, "splits.train: 4503599625273"),
    ],
    ids=["rows", "views", "classes", "all of them"],
)
def test_sizes_that_the_file_does_not_have_are_refused_before_anything_is_allocated(
    change: dict[str, int], found: str, good_path: Path
) -> None:
    document = manifest_document()
    document["splits"]["train"] |= {key: change[key] for key in change.keys() & {"rows", "views"}}
    document["teacher"] |= {key: change[key] for key in change.keys() & {"classes"}}
    forge_manifest(good_path, document)
    tracemalloc.start()
    try:
        with pytest.raises(CacheDamagedError, match=found):
            open_cache(good_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_forger_who_changes_nothing_is_not_noticed(good_path: Path, good: bytes) -> None:
    """So that the refusals above are of what was forged, not of how."""
    forge_manifest(good_path, manifest_document())
    assert good_path.read_bytes() == good
