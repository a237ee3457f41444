"""The journals: a bad record costs its block only, all of them count, locks keep others away."""

import fcntl
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from cache_makers import (
    block_extents,
    flip,
    journal,
    make_manifest,
    open_descriptors,
    open_writer,
    partial,
    read_layout_of,
    stop_after,
    write_cache,
)

from kdcache.cache import journal as journals
from kdcache.errors import DataError, OptionError


class TestRecords:
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

    def test_a_record_is_what_the_format_says(self, tmp_path: Path) -> None:
        """Number and CRC32 of the block, and a CRC32 of the layout's digest and of both."""
        path = tmp_path / "t.h5"
        stop_after(path, 2)
        content, expected = partial(path).read_bytes(), b""
        for number, extent in enumerate(block_extents(partial(path))[:2]):
            record = struct.pack("<II", number, zlib.crc32(content[extent.offset : extent.end]))
            digest = read_layout_of(partial(path)).digest
            expected += record + struct.pack("<I", zlib.crc32(digest + record))
        assert journal(path).read_bytes() == expected

    def test_that_of_another_file_says_nothing(self, tmp_path: Path) -> None:
        """A loss of power can bring one back; blocks of zeros would fit the reserved space."""
        old, new = tmp_path / "old.h5", tmp_path / "new.h5"
        with open_writer(old, make_manifest()) as writer:
            for block in writer.missing:
                writer.write(block, np.zeros((len(writer.rows(block)), 3), np.float32))
        other = make_manifest(teacher="resnet50")
        with open_writer(new, other):
            pass
        journal(new).write_bytes(journal(old).read_bytes())
        with open_writer(new, other) as writer:
            assert writer.missing == [0, 1, 2, 3]

    def test_that_of_a_block_that_is_not_there_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        own = journals.Journal(path, 0)
        own.append(4, 0, read_layout_of(partial(path)))
        own.close()
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == [1, 2, 3]


class TestJournalsThatARunLeft:
    """It was killed after it gave the cache its name."""

    @pytest.fixture
    def left(self, good_path: Path) -> Path:
        journal(good_path).touch()
        return journal(good_path)

    def test_they_are_removed(self, left: Path, good_path: Path) -> None:
        before = open_descriptors()
        with open_writer(good_path, make_manifest()) as writer:
            assert writer.complete
        assert list(good_path.parent.iterdir()) == [good_path]
        assert open_descriptors() == before

    def test_unless_another_run_replaces_the_cache(self, left: Path, good_path: Path) -> None:
        partial(good_path).touch()
        with open_writer(good_path, make_manifest()) as writer:
            assert writer.complete
        assert left.exists()

    def test_or_is_about_to(self, left: Path, good_path: Path) -> None:
        with open(left, "ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with open_writer(good_path, make_manifest()) as writer:
                assert writer.complete
            assert left.exists()

    def test_one_that_cannot_be_opened_stays(self, left: Path, good_path: Path) -> None:
        left.unlink()
        left.mkdir()
        with open_writer(good_path, make_manifest()) as writer:
            assert writer.complete
        assert left.exists()

    def test_another_run_may_remove_them_at_the_same_time(
        self, left: Path, good_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_locked = journals.open_locked

        def removed_meanwhile(path: Path, flags: int) -> int:
            fd = open_locked(path, flags)
            path.unlink()
            return fd

        before = open_descriptors()
        monkeypatch.setattr(journals, "open_locked", removed_meanwhile)
        journals.remove_stale_journals(good_path)
        assert open_descriptors() == before
        monkeypatch.setattr(journals, "_journals", lambda path: [left])
        journals.remove_journals(good_path)


class TestLocks:
    def test_a_writer_is_refused_while_any_process_of_another_run_is_at_work(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        with open(f"{path}.partial.journal-3", "wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(
                OptionError,
                match=f"expected no other run writing {path}; found one that is still going on",
            ):
                open_writer(path, make_manifest())

    def test_a_journal_that_was_removed_before_it_was_locked_is_made_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By a run that ended just then: a lock on a file without a name keeps nobody away."""
        path, real, calls = tmp_path / "t.h5", fcntl.flock, []

        def flock(fd: int, operation: int) -> None:
            calls.append(operation)
            if len(calls) == 1:
                journal(path).unlink()
            real(fd, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        with open_writer(path, make_manifest()):
            with pytest.raises(OptionError, match="one that is still going on"):
                open_writer(path, make_manifest())
            assert len(calls) >= 2

    def test_a_second_writer_is_refused_while_the_first_is_at_work(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        with open_writer(path, make_manifest()):
            for restart in (False, True):
                with pytest.raises(OptionError) as error:
                    open_writer(path, make_manifest(), restart=restart)
                assert str(error.value) == (
                    f"expected no other run writing {path}; found one that is still going on;"
                    " wait for it or give another --cache"
                )
        write_cache(path, make_manifest())

    @pytest.mark.parametrize("planted", ["journal-0", "journal-5", "tmp"])
    def test_nothing_is_written_through_a_symbolic_link(
        self, planted: str, good: bytes, tmp_path: Path
    ) -> None:
        path, victim = tmp_path / "t.h5", tmp_path / "victim"
        victim.write_bytes(b"precious")
        Path(f"{path}.partial.{planted}").symlink_to(victim)
        write_cache(path, make_manifest())
        assert victim.read_bytes() == b"precious"
        assert path.read_bytes() == good
        assert sorted(tmp_path.iterdir()) == [path, victim]

    def test_nor_an_unfinished_file_that_is_one(self, tmp_path: Path) -> None:
        path, other = tmp_path / "t.h5", tmp_path / "other.h5.partial"
        stop_after(tmp_path / "other.h5", 2)
        before = other.read_bytes()
        Path(f"{path}.partial").symlink_to(other)
        with pytest.raises(DataError, match="symbolic links"):
            write_cache(path, make_manifest())
        assert other.read_bytes() == before
