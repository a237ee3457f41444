"""The cache file: what is written comes back, what is torn is finished, what is damaged or forged is refused."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.reader import Cache, open_cache, read_fingerprint
from kdcache.cache.seal import (
    Extent,
    Layout,
    block_crc32,
    check_seal,
    prepared_digest,
    read_layout,
    write_seal,
)
from kdcache.cache.writer import CacheWriter
from kdcache.config import SPLITS
from kdcache.errors import CacheDamagedError, KdcacheError

CLASSES, BLOCK_ROWS = 3, 4


def make_manifest(
    rows: tuple[int, ...] = (4, 2, 1), views: int = 2, classes: int = CLASSES
) -> dict[str, Any]:
    """With the defaults 4 images in 2 views, 2 and 1 in one: 8 + 2 + 1 rows in 2 + 1 + 1 blocks."""
    counts = dict(zip(SPLITS, rows, strict=True))
    return {
        "splits": {
            split: {"rows": count, "views": views if split == "train" else 1}
            for split, count in counts.items()
        },
        "teacher": {"name": "Lehrkörper", "classes": classes},
        "dataset": {"class_names": ["eins", "zwei"]},
    }


def make_arrays(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every number comes from the row's index and the split, so that a misaligned row cannot pass."""
    arrays = {}
    for place, split in enumerate(SPLITS):
        rows, views = manifest["splits"][split]["rows"], manifest["splits"][split]["views"]
        arrays[f"{split}/views"] = (
            np.arange(rows * views * 5).reshape(rows, views, 5) - 1000 * place
        ).astype(np.int16)
        arrays[f"{split}/labels"] = 7 * np.arange(rows) + 2**40 * place
        arrays[f"{split}/image_crc32"] = (np.arange(rows) * 2654435761 % 2**32).astype(np.uint32)
    return arrays


def logits_of(manifest: dict[str, Any], split: str) -> np.ndarray:
    """float32 (rows * views, classes): sin of the number's own index."""
    part = manifest["splits"][split]
    index = np.arange(
        part["rows"] * part["views"] * manifest["teacher"]["classes"]
    ) + 10_000 * SPLITS.index(split)
    return (100 * np.sin(index)).astype(np.float32).reshape(-1, manifest["teacher"]["classes"])


def open_writer(
    path: Path, manifest: dict[str, Any], block_rows: int = BLOCK_ROWS, **arguments: bool
) -> CacheWriter:
    return CacheWriter(path, manifest, make_arrays(manifest), block_rows=block_rows, **arguments)


def write_block(writer: CacheWriter, manifest: dict[str, Any], block: int) -> None:
    rows = writer.rows(block)
    writer.write(block, logits_of(manifest, rows.split)[rows.start : rows.stop])


def write_cache(path: Path, manifest: dict[str, Any], block_rows: int = BLOCK_ROWS) -> None:
    """Write what is missing and seal."""
    with open_writer(path, manifest, block_rows) as writer:
        for block in writer.missing:
            write_block(writer, manifest, block)
        if not writer.complete:
            writer.seal()


def assert_right(cache: Cache, manifest: dict[str, Any]) -> None:
    arrays = make_arrays(manifest)
    assert cache.manifest == manifest and cache.fingerprint == fingerprint(manifest)
    for split, part in cache.splits.items():
        for member in ("views", "labels", "image_crc32"):
            expected = arrays[f"{split}/{member}"]
            assert (
                getattr(part, member).dtype == expected.dtype
                and (getattr(part, member) == expected).all()
            )
        rows = manifest["splits"][split]["rows"]
        assert part.logits.dtype == np.float16 and len(part) == rows
        assert (
            part.logits == logits_of(manifest, split).astype(np.float16).reshape(part.logits.shape)
        ).all()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an undisturbed cache of `make_manifest()`."""
    path = tmp_path_factory.mktemp("good") / "t.h5"
    write_cache(path, make_manifest())
    return path.read_bytes()


@pytest.fixture
def good_path(good: bytes, tmp_path: Path) -> Path:
    (tmp_path / "t.h5").write_bytes(good)
    return tmp_path / "t.h5"


class TestRoundTrip:
    @given(
        st.tuples(*[st.integers(1, 9)] * 3),
        st.integers(1, 4),
        st.integers(1, 12),
        st.integers(1, 40),
        st.booleans(),
    )
    def test_what_is_written_is_read(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        rows: tuple[int, ...],
        views: int,
        classes: int,
        block_rows: int,
        mapped: bool,
    ) -> None:
        manifest, path = (
            make_manifest(rows, views, classes),
            tmp_path_factory.mktemp("round") / "t.h5",
        )
        write_cache(path, manifest, block_rows)
        assert_right(open_cache(path, in_memory=not mapped), manifest)

    def test_only_the_cache_remains(self, tmp_path: Path) -> None:
        write_cache(tmp_path / "new" / "folder" / "t.h5", make_manifest())
        assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["t.h5"]

    def test_blocks_cover_every_row_once_and_never_two_splits(self, tmp_path: Path) -> None:
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            rows = [writer.rows(block) for block in writer.missing]
        assert [(block.split, block.start, block.stop) for block in rows] == [
            ("train", 0, 4), ("train", 4, 8), ("validation", 0, 2), ("test", 0, 1)
        ]  # fmt: skip

    def test_equal_runs_leave_equal_files(self, good: bytes, tmp_path: Path) -> None:
        write_cache(tmp_path / "other name.h5", make_manifest())
        assert (tmp_path / "other name.h5").read_bytes() == good

    def test_any_hdf5_tool_can_read_it(self, good_path: Path) -> None:
        manifest = make_manifest()
        with h5py.File(good_path, "r") as file:
            assert bytes(file["manifest"][:]) == manifest_bytes(manifest)
            expected = logits_of(manifest, "train").astype(np.float16).reshape(4, 2, CLASSES)
            assert (file["train/logits"][:] == expected).all()

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

    def test_fingerprint_is_read_without_the_logits(self, good_path: Path) -> None:
        manifest = make_manifest()
        assert read_fingerprint(good_path) == (manifest, fingerprint(manifest))

    def test_fingerprints_of_equal_manifests_are_equal_whatever_the_order(self) -> None:
        manifest = make_manifest()
        turned = dict(reversed(manifest.items()))
        assert fingerprint(turned) == fingerprint(manifest)
        assert fingerprint(make_manifest(views=3)) != fingerprint(manifest)

    def test_float16_borders_are_kept(self, tmp_path: Path) -> None:
        manifest = make_manifest((1, 1, 1), views=1)
        with open_writer(tmp_path / "t.h5", manifest) as writer:
            for block in writer.missing:
                writer.write(block, np.array([[65504.0, -65504.0, 2.0**-24]], np.float32))
            writer.seal()
        assert open_cache(tmp_path / "t.h5").splits["test"].logits.tolist() == [
            [[65504.0, -65504.0, 2.0**-24]]
        ]


class TestRefusedLogits:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 65505.0, -1e30])
    def test_the_first_bad_logit_is_named(self, value: float, tmp_path: Path) -> None:
        manifest = make_manifest()
        with open_writer(tmp_path / "t.h5", manifest) as writer:
            logits = logits_of(manifest, "train")[4:8].copy()
            logits[2:, 1] = value
            with pytest.raises(KdcacheError) as error:
                writer.write(1, logits)
        assert str(error.value) == (
            f"expected finite teacher logits within +-65504; found {np.float32(value)} in class 1 of train row 6;"
            " try --precision fp32 or check the teacher's weights"
        )
        with open_writer(tmp_path / "t.h5", manifest) as writer:
            assert writer.missing == [0, 1, 2, 3]

    def test_a_block_of_the_wrong_size_is_a_programming_error(self, tmp_path: Path) -> None:
        with (
            open_writer(tmp_path / "t.h5", make_manifest()) as writer,
            pytest.raises(ValueError, match="expected 24 bytes for block 0, found 18"),
        ):
            writer.write(0, np.zeros((3, CLASSES), np.float32))


def stop_after(path: Path, blocks: int) -> None:
    with open_writer(path, make_manifest()) as writer:
        for block in writer.missing[:blocks]:
            write_block(writer, make_manifest(), block)


def partial(path: Path) -> Path:
    return Path(f"{path}.partial")


def journal(path: Path) -> Path:
    return Path(f"{path}.partial.journal-0")


def block_extents(path: Path) -> list[Extent]:
    with open(path, "rb") as file:
        return read_layout(file.fileno(), str(path)).blocks()


class TestResume:
    @pytest.mark.parametrize("blocks", range(5))
    def test_a_resumed_file_equals_the_undisturbed_one(
        self, blocks: int, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, blocks)
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == list(range(4))[blocks:]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good

    @pytest.mark.parametrize("kept", range(12))
    def test_a_torn_journal_record_costs_its_block_only(
        self, kept: int, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 3)
        os.truncate(journal(path), 2 * 12 + kept)
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == [2, 3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good

    @pytest.mark.parametrize("place", range(12))
    def test_a_damaged_journal_record_costs_its_block_only(
        self, place: int, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 3)
        flip(journal(path), 12 + place, 0xFF)
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == [1, 3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good

    @pytest.mark.parametrize("block", range(3))
    def test_a_torn_block_is_written_again(self, block: int, good: bytes, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 3)
        extent = block_extents(partial(path))[block]
        with open(partial(path), "r+b") as file:
            file.seek(extent.offset + extent.size // 2)
            file.write(bytes(extent.end - file.tell()))
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == [block, 3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good

    def test_the_journals_of_any_number_of_processes_count(
        self, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 3)
        records = journal(path).read_bytes()
        for number, record in ((0, records[:12]), (2, records[12:24]), (11, records[24:])):
            Path(f"{path}.partial.journal-{number}").write_bytes(record)
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == [3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]

    def test_blocks_may_come_in_any_order(self, good: bytes, tmp_path: Path) -> None:
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            for block in reversed(writer.missing):
                write_block(writer, make_manifest(), block)
            writer.seal()
        assert (tmp_path / "t.h5").read_bytes() == good

    def test_a_block_that_changed_behind_the_writer_is_not_sealed(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        with open_writer(path, make_manifest()) as writer:
            for block in writer.missing:
                write_block(writer, make_manifest(), block)
            flip(partial(path), block_extents(partial(path))[2].offset, 1)
            with pytest.raises(
                KdcacheError,
                match=r"t\.h5\.partial damaged in block 2, which was right when it was written",
            ):
                writer.seal()
        assert not path.exists()

    def test_a_damaged_unfinished_cache_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        flip(partial(path), partial(path).read_bytes().index(b"Lehrk"), 1)
        with pytest.raises(KdcacheError) as error:
            open_writer(path, make_manifest())
        assert str(error.value) == (
            f"expected an intact unfinished cache; found {partial(path)} damaged; discard it with --restart"
        )

    def test_restart_discards_what_is_there(self, good: bytes, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 3)
        with open_writer(path, make_manifest(), restart=True) as writer:
            assert writer.missing == [0, 1, 2, 3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good

    def test_nothing_is_left_to_do_for_a_complete_cache(self, good_path: Path, good: bytes) -> None:
        with open_writer(good_path, make_manifest()) as writer:
            assert writer.complete and writer.missing == []
        assert good_path.read_bytes() == good and list(good_path.parent.iterdir()) == [good_path]

    def test_an_unfinished_cache_is_not_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 2)
        with pytest.raises(KdcacheError) as error:
            open_cache(path)
        assert str(error.value) == (
            f"expected a finished cache; found {path}: unfinished; run precompute_teacher.py again with the same options"
        )
        with pytest.raises(KdcacheError, match="damaged in its seal"):
            open_cache(partial(path))

    def test_a_missing_cache_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(KdcacheError) as error:
            open_cache(tmp_path / "t.h5")
        assert str(error.value) == (
            f"expected a finished cache; found {tmp_path}/t.h5: No such file or directory; run precompute_teacher.py first"
        )

    @pytest.mark.parametrize("finished", [True, False])
    def test_another_manifest_is_refused_by_field_until_restart(
        self, finished: bool, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        write_cache(path, make_manifest()) if finished else stop_after(path, 2)
        other = make_manifest()
        other["teacher"]["name"] = "resnet50"
        with pytest.raises(KdcacheError) as error:
            open_writer(path, other)
        assert str(error.value) == (
            f"expected the options that the cache was begun with; found {path if finished else partial(path)} with other ones"
            " (teacher.name: Lehrkörper and resnet50); give another --cache, or --restart to discard what is there"
        )
        with open_writer(path, other, restart=True) as writer:
            for block in writer.missing:
                write_block(writer, other, block)
            assert path.exists() == finished  # the old one stays until the new one is complete
            writer.seal()
        assert_right(open_cache(path), other)

    def test_a_writer_is_refused_while_any_process_of_another_run_is_at_work(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        with open(f"{path}.partial.journal-3", "wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(
                KdcacheError,
                match=f"expected no other run writing {path}; found one that is still going on",
            ):
                open_writer(path, make_manifest())

    def test_a_second_writer_is_refused_while_the_first_is_at_work(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        with open_writer(path, make_manifest()):
            for restart in (False, True):
                with pytest.raises(KdcacheError) as error:
                    open_writer(path, make_manifest(), restart=restart)
                assert str(error.value) == (
                    f"expected no other run writing {path}; found one that is still going on;"
                    " wait for it or give another --cache"
                )
        write_cache(path, make_manifest())


def test_differences_are_told_by_path_and_shortened() -> None:
    old = {"a": {"b": 1, "c": 2}, "same": [1], "gone": True, "long": "x" * 50}
    new = {"a": {"b": 1, "c": 3}, "same": [1], "long": "y" * 50}
    assert differences(old, new) == [
        "a.c: 2 and 3", "gone: True and None", f"long: {'x' * 36} ... and {'y' * 36} ..."
    ]  # fmt: skip


class TestNoRoom:
    def test_a_full_disk_is_refused_before_any_work_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(KdcacheError) as error:
            open_writer(tmp_path / "t.h5", make_manifest())
        assert str(error.value) == (
            f"expected room and the right to write {tmp_path}/t.h5; found No space left on device;"
            " free some space or give another --cache"
        )
        assert list(tmp_path.iterdir()) == []

    def test_the_room_asked_for_is_enough_for_all_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, size: asked.append(size))
        write_cache(tmp_path / "t.h5", make_manifest((50, 9, 9), views=9, classes=100))
        assert asked[0] >= (tmp_path / "t.h5").stat().st_size == asked[1]

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(KdcacheError) as error:
            open_writer(tmp_path / "file" / "t.h5", make_manifest())
        assert str(error.value).startswith(
            f"expected room and the right to write {tmp_path}/file/t.h5; found "
        )


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it and go on."""


class Guillotine:
    """Lets `count` system calls through that write, tears the next one, and lets none through after it.

    Torn means: not begun; or, with `torn`, half of the bytes written, or the call done but not returned from.
    """

    CALLS = (
        "pwrite",
        "write",
        "fsync",
        "fdatasync",
        "ftruncate",
        "rename",
        "unlink",
        "posix_fallocate",
        "mkdir",
    )

    def __init__(self, count: float, torn: bool) -> None:
        self.left, self.torn = count, torn
        self.seen = 0

    def guard(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.seen += 1
            self.left -= 1
            if self.left >= 0:
                return real(*arguments, **named)
            if self.left == -1 and self.torn:
                if name in ("pwrite", "write"):
                    fd, data, *offset = arguments
                    real(fd, data[: len(data) // 2], *offset)
                else:
                    real(*arguments, **named)
            raise Killed(name)

        return call

    @contextmanager
    def set_up(self) -> Iterator[None]:
        with ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            for name in self.CALLS:
                patch.setattr(os, name, self.guard(name, getattr(os, name)))
            real_open, real_close, opened = os.open, os.close, set()

            def open_one(*arguments: Any, **named: Any) -> int:
                fd = real_open(*arguments, **named)
                opened.add(fd)
                return fd

            def close_one(fd: int) -> None:
                real_close(fd)
                opened.discard(fd)

            patch.setattr(os, "open", open_one)
            patch.setattr(os, "close", close_one)
            try:
                yield
            finally:
                for fd in opened:  # as the kernel does, which drops the lock
                    real_close(fd)


class TestKilled:
    @pytest.mark.parametrize("torn", [False, True], ids=["before the call", "in the middle of it"])
    def test_at_every_write_nothing_wrong_is_left_and_the_work_goes_on(
        self, torn: bool, good: bytes, tmp_path: Path
    ) -> None:
        manifest = make_manifest()
        uncut = Guillotine(float("inf"), torn)
        with uncut.set_up():
            write_cache(tmp_path / "uncut" / "t.h5", manifest)
        assert uncut.seen > 30
        for count in range(uncut.seen):
            path = tmp_path / str(count) / "t.h5"
            with pytest.raises(Killed), Guillotine(count, torn).set_up():
                write_cache(path, manifest)
            if path.exists():
                assert_right(open_cache(path), manifest)
            else:
                with pytest.raises(KdcacheError):
                    open_cache(path)
            write_cache(path, manifest)
            assert path.read_bytes() == good, f"killed at call {count}"
            assert {other.name for other in path.parent.iterdir()} <= {
                path.name,
                journal(path).name,
            }

    def test_at_every_second_death_as_well(self, good: bytes, tmp_path: Path) -> None:
        """Resuming writes too, and is killed in its turn: an early and a late first death, and every second one."""
        manifest = make_manifest()
        for first in (9, 22):
            for second in range(1, 100):
                path = tmp_path / f"{first}-{second}" / "t.h5"
                with pytest.raises(Killed), Guillotine(first, True).set_up():
                    write_cache(path, manifest)
                try:
                    with Guillotine(second, True).set_up():
                        write_cache(path, manifest)
                except Killed:
                    write_cache(path, manifest)
                    assert path.read_bytes() == good, f"killed at calls {first} and {second}"
                else:
                    break
            assert 10 < second < 99

    def test_what_is_promised_is_on_the_disk_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against a power loss: a block before its record, all of the file before its name, the folder after it."""
        log: list[str] = []

        def logged(name: str) -> None:
            real = getattr(os, name)

            def call(*arguments: Any) -> Any:
                where = arguments[0]
                path = (
                    os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else str(where)
                )
                kind = (
                    "journal" if "journal" in path else "file" if ".partial" in path else "folder"
                )
                log.append(f"{name} {kind}")
                return real(*arguments)

            monkeypatch.setattr(os, name, call)

        for name in ("pwrite", "write", "fsync", "fdatasync", "rename"):
            logged(name)
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            above = ["fsync folder"] * len(tmp_path.parents)
            assert log == [*above, "pwrite file", "fsync file", "rename file", "fsync folder"]
            for block in writer.missing:
                log.clear()
                write_block(writer, make_manifest(), block)
                assert log == [
                    "pwrite file",
                    "fdatasync file",
                    "write journal",
                    "fdatasync journal",
                ]
            log.clear()
            writer.seal()
        checksums_and_seal = ["pwrite file"] * 2
        assert log == [
            *checksums_and_seal,
            "fsync file",
            "rename file",
            "fsync folder",
            "fsync folder",
        ]

    def test_a_short_write_is_gone_on_with(
        self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real_write, real_pwrite = os.write, os.pwrite
        monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:5]))
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            monkeypatch.setattr(
                os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:5], offset)
            )
            for block in writer.missing:
                write_block(writer, make_manifest(), block)
            monkeypatch.undo()
            writer.seal()
        assert (tmp_path / "t.h5").read_bytes() == good


def flip(path: Path, place: int, mask: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


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

    @pytest.mark.parametrize("more", [b"\0", b"x" * 512])
    def test_appended_bytes_are_refused(self, more: bytes, good_path: Path, good: bytes) -> None:
        good_path.write_bytes(good + more)
        with pytest.raises(KdcacheError) as error:
            open_cache(good_path)
        assert str(error.value) == (
            f"expected a complete cache; found {good_path} damaged in its size ({len(good) + len(more)} bytes;"
            f" {len(good)} were written); copy it again, or delete it and run phase one again"
        )

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
        with pytest.raises(KdcacheError, match=f"damaged in {where}; copy it again"):
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
        with pytest.raises(KdcacheError, match=words):
            open_cache(good_path)
        assert open_cache(good_path, check_logits=False).manifest == make_manifest()

    def test_a_format_of_the_future_is_named(
        self, good_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kdcache.seal._VERSION", 2)
        with pytest.raises(KdcacheError) as error:
            open_cache(good_path)
        assert str(error.value) == (
            f"expected cache format 2; found {good_path} with format 1; use the kdcache that wrote it"
        )

    @pytest.mark.parametrize(
        "content", [b"", b"labels,logits\n", bytes(4096)], ids=["empty", "text", "zeros"]
    )
    def test_another_kind_of_file_is_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "t.h5").write_bytes(content)
        with pytest.raises(KdcacheError) as error:
            open_cache(tmp_path / "t.h5")
        assert str(error.value) == (
            f"expected a cache written by kdcache; found {tmp_path}/t.h5, which is something else; give another file"
        )

    @pytest.mark.parametrize("userblock", [0, 512])
    def test_a_plain_hdf5_file_is_refused(self, userblock: int, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "t.h5", "w", userblock_size=userblock) as file:
            file["train/logits"] = np.zeros((2, 1, 3), np.float16)
        with pytest.raises(KdcacheError, match="expected a cache written by kdcache"):
            open_cache(tmp_path / "t.h5")


def read_layout_of(path: Path) -> Layout:
    with open(path, "rb") as file:
        return read_layout(file.fileno(), str(path))


def reseal(path: Path, layout: Layout) -> None:
    """Forge: give a file that was tampered with a valid layout record, checksums of its logits, and a valid seal."""
    with open(path, "r+b") as file:
        fd = file.fileno()
        layout = replace(layout, file_size=path.stat().st_size)
        crcs = np.array([block_crc32(fd, block) for block in layout.blocks()], "<u4")
        os.pwrite(fd, crcs.tobytes(), layout.block_crc32.offset)
        layout = replace(layout, digest=prepared_digest(fd, layout))
        os.pwrite(fd, layout.pack(), 0)
        write_seal(fd, layout)
        check_seal(fd, read_layout(fd, str(path)), str(path))


def instead_of_labels(make: Callable[[h5py.File, Path], None]) -> Callable[[h5py.File, Path], None]:
    def tamper(file: h5py.File, folder: Path) -> None:
        del file["train/labels"]
        make(file, folder)

    return tamper


def other_file(folder: Path) -> str:
    with h5py.File(folder / "other.h5", "w") as other:
        other["labels"] = np.arange(4)
    return "other.h5"


def external_storage(file: h5py.File, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(32))
    file.create_dataset("train/labels", (4,), "<i8", external=[(str(folder / "secret"), 0, 32)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), "<i8")
    layout[:] = h5py.VirtualSource(str(folder / other_file(folder)), "labels", (4,))
    file.create_virtual_dataset("train/labels", layout)


def swapped_logits(file: h5py.File, folder: Path) -> None:
    """Right shape, right type, contiguous, but in another place than the checksummed one."""
    file["train"].move("logits", "old")
    file["train/logits"] = np.zeros((4, 2, CLASSES), np.float16)
    del file["train/old"]


FORGERIES: dict[str, tuple[Callable[[h5py.File, Path], Any], str]] = {
    "soft link": (
        instead_of_labels(
            lambda file, _: file.__setitem__("train/labels", h5py.SoftLink("/train/image_crc32"))
        ),
        "/train/labels, which is not a hard link",
    ),
    "external link": (
        instead_of_labels(
            lambda file, folder: file.__setitem__(
                "train/labels", h5py.ExternalLink(other_file(folder), "/labels")
            )
        ),
        "/train/labels, which is not a hard link",
    ),
    "never allocated": (
        instead_of_labels(lambda file, _: file.create_dataset("train/labels", (4,), "<i8")),
        r"train/labels as \(4,\) int64",
    ),
    "external storage": (instead_of_labels(external_storage), r"train/labels as \(4,\) int64"),
    "virtual": (instead_of_labels(virtual), r"train/labels as \(4,\) int64"),
    "chunked": (
        instead_of_labels(
            lambda file, _: file.create_dataset("train/labels", (4,), "<i8", chunks=(2,))
        ),
        r"train/labels as \(4,\) int64",
    ),
    "compressed": (
        instead_of_labels(
            lambda file, _: file.create_dataset(
                "train/labels", data=np.arange(4), compression="gzip"
            )
        ),
        r"train/labels as \(4,\) int64",
    ),
    "other type": (
        instead_of_labels(
            lambda file, _: file.__setitem__("train/labels", np.arange(4, dtype=">i8"))
        ),
        r"train/labels as \(4,\) >i8",
    ),
    "other shape": (
        instead_of_labels(lambda file, _: file.__setitem__("train/labels", np.arange(5))),
        r"train/labels as \(5,\) int64",
    ),
    "missing": (instead_of_labels(lambda file, _: None), "datasets train/labels"),
    "one more": (lambda file, _: file.__setitem__("extra", np.arange(4)), "datasets extra"),
    "one more in a split": (
        lambda file, _: file.__setitem__("test/extra", np.arange(4)),
        "datasets test/extra",
    ),
    "a dataset for a split": (
        lambda file, _: (file.__delitem__("train"), file.__setitem__("train", np.arange(4))),
        r"a structure that HDF5 cannot read \(AttributeError\)",
    ),
    "a split missing": (lambda file, _: file.__delitem__("train"), r"no train"),
    "a split linked": (
        lambda file, _: (
            file.__delitem__("train"),
            file.__setitem__("train", h5py.SoftLink("/test")),
        ),
        "/train, which is not a hard link",
    ),
    "a group for a dataset": (
        instead_of_labels(lambda file, _: file.create_group("train/labels")),
        r"a structure that HDF5 cannot read \(AttributeError\)",
    ),
    "elsewhere": (swapped_logits, "train/logits elsewhere than its layout record says"),
}


class TestForged:
    """Layout record, checksums and seal are all valid: only what HDF5 itself says can still give these away."""

    def test_resealing_alone_changes_nothing(self, good_path: Path, good: bytes) -> None:
        reseal(good_path, read_layout_of(good_path))
        assert good_path.read_bytes() == good

    @pytest.mark.parametrize("name", FORGERIES)
    def test_a_forged_structure_is_refused(self, name: str, good_path: Path) -> None:
        tamper, found = FORGERIES[name]
        layout = read_layout_of(good_path)
        with h5py.File(good_path, "r+", libver=("earliest", "v110")) as file:
            tamper(file, good_path.parent)
        reseal(good_path, layout)
        words = f"expected the datasets that the manifest announces; found {good_path} with {found}; do not use this file"
        with pytest.raises(CacheDamagedError, match=words):
            open_cache(good_path)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"{", b"["),
            (b'"rows": 4', b'"rows":-4'),
            (b'"classes": 3', b'"classes": 0'),
            (b'"classes": 3', b'"classes":{}'),
            (b'"splits"', b'"splitz"'),
            (b'"eins"', b"314159"),
        ],
        ids=str,
    )
    def test_a_forged_manifest_is_refused(
        self, old: bytes, new: bytes, good_path: Path, good: bytes
    ) -> None:
        layout = read_layout_of(good_path)
        place = good.index(old, layout.manifest.offset)
        good_path.write_bytes(good[:place] + new + good[place + len(old) :])
        reseal(good_path, layout)
        with pytest.raises(
            CacheDamagedError, match=rf"found {good_path} damaged in its manifest \("
        ):
            open_cache(good_path)

    def test_a_block_that_is_not_of_whole_rows_is_refused(
        self, good_path: Path, good: bytes
    ) -> None:
        layout = read_layout_of(good_path)
        good_path.write_bytes(good.replace(b'"classes": 3', b'"classes": 9'))
        reseal(good_path, layout)
        with pytest.raises(CacheDamagedError, match="damaged in its layout record"):
            open_cache(good_path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda layout: replace(layout, block_bytes=0),
            lambda layout: replace(layout, manifest=Extent(0, layout.manifest.size)),
            lambda layout: replace(
                layout, logits=(layout.logits[0], layout.logits[0], layout.logits[2])
            ),
            lambda layout: replace(
                layout, logits=(*layout.logits[:2], Extent(layout.file_size, 2**50))
            ),
            lambda layout: replace(layout, block_bytes=layout.block_bytes * 2),
            lambda layout: replace(layout, block_crc32=Extent(layout.block_crc32.offset, 2**40)),
        ],
        ids=[
            "no block",
            "in the user block",
            "overlapping",
            "beyond the end",
            "too few checksums",
            "too many checksums",
        ],
    )
    def test_a_layout_that_does_not_fit_is_refused(
        self, change: Callable[[Layout], Layout], good_path: Path
    ) -> None:
        forged = change(read_layout_of(good_path))
        with open(good_path, "r+b") as file:
            os.pwrite(file.fileno(), forged.pack(), 0)
        with pytest.raises(KdcacheError, match="damaged in its layout record"):
            open_cache(good_path)


def test_a_folder_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(KdcacheError, match=r"expected a cache file; found .*, which is not a file"):
        open_cache(tmp_path)
