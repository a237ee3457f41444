"""The journals: a bad record costs its block only, all of them count, locks keep others away."""

import fcntl
import os
from pathlib import Path

import pytest
from cache_makers import flip, journal, make_manifest, open_writer, stop_after, write_cache

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
