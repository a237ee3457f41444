"""Writing a cache: what is written comes back, and an interrupted run is finished or refused."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_makers import (
    CLASSES,
    assert_right,
    block_extents,
    flip,
    journal,
    logits_of,
    make_arrays,
    make_manifest,
    open_descriptors,
    open_writer,
    partial,
    stop_after,
    write_block,
    write_cache,
)
from hypothesis import given
from hypothesis import strategies as st
from torture.common import InTurn

from kdcache.cache import writer as writers
from kdcache.cache.reader import open_cache, verify_cache
from kdcache.cache.writer import CacheWriter
from kdcache.errors import CacheDamagedError, DataError, OptionError, PeerError
from kdcache.runtime import files


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
        manifest = make_manifest(rows, views, classes)
        path = tmp_path_factory.mktemp("round") / "t.h5"
        write_cache(path, manifest, block_rows)
        assert_right(open_cache(path, in_memory=not mapped), manifest)

    def test_the_seal_has_the_digest_of_the_logits(self, tmp_path: Path) -> None:
        write_cache(tmp_path / "t.h5", make_manifest())
        verify_cache(tmp_path / "t.h5")

    def test_only_the_cache_remains(self, tmp_path: Path) -> None:
        write_cache(tmp_path / "new" / "folder" / "t.h5", make_manifest())
        assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["t.h5"]

    def test_blocks_cover_every_row_once_and_never_two_splits(self, tmp_path: Path) -> None:
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            rows = [writer.rows(block) for block in writer.missing]
        assert [(block.split, block.start, block.stop) for block in rows] == [
            ("train", 0, 4), ("train", 4, 8), ("validation", 0, 2), ("test", 0, 1)
        ]  # fmt: skip
        assert [len(block) for block in rows] == [4, 4, 2, 1]

    def test_equal_runs_leave_equal_files(self, good: bytes, tmp_path: Path) -> None:
        write_cache(tmp_path / "other name.h5", make_manifest())
        assert (tmp_path / "other name.h5").read_bytes() == good

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
            with pytest.raises(DataError) as error:
                writer.write(1, logits)
        assert str(error.value) == (
            f"expected finite teacher logits within +-65504; found {np.float32(value)} in class 1"
            " of train row 6; try --precision fp32 or check the teacher's weights"
        )
        with open_writer(tmp_path / "t.h5", manifest) as writer:
            assert writer.missing == [0, 1, 2, 3]

    def test_a_block_of_the_wrong_size_is_a_programming_error(self, tmp_path: Path) -> None:
        with (
            open_writer(tmp_path / "t.h5", make_manifest()) as writer,
            pytest.raises(ValueError, match="expected 24 bytes for block 0, found 18"),
        ):
            writer.write(0, np.zeros((3, CLASSES), np.float32))


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
                CacheDamagedError,
                match=r"t\.h5\.partial damaged in block 2, which was right when it was written",
            ):
                writer.seal()
        assert not path.exists()

    def test_a_damaged_unfinished_cache_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        flip(partial(path), partial(path).read_bytes().index(b"Lehrk"), 1)
        with pytest.raises(CacheDamagedError) as error:
            open_writer(path, make_manifest())
        assert str(error.value) == (
            f"expected an intact unfinished cache; found {partial(path)} damaged;"
            " discard it with --restart"
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

    @pytest.mark.parametrize("finished", [True, False])
    def test_another_manifest_is_refused_by_field_until_restart(
        self, finished: bool, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        write_cache(path, make_manifest()) if finished else stop_after(path, 2)
        other = make_manifest(teacher="resnet50")
        with pytest.raises(OptionError) as error:
            open_writer(path, other)
        assert str(error.value) == (
            "expected the options that the cache was begun with;"
            f" found {path if finished else partial(path)} with other ones"
            " (teacher.name: Lehrkörper and resnet50);"
            " give another --cache, or --restart to discard what is there"
        )
        with open_writer(path, other, restart=True) as writer:
            for block in writer.missing:
                write_block(writer, other, block)
            assert path.exists() == finished  # the old one stays until the new one is complete
            writer.seal()
        assert_right(open_cache(path), other)

    def test_three_differences_are_told(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 0)
        with pytest.raises(OptionError) as error:
            open_writer(path, make_manifest((5, 3, 2), 3, 4))
        assert (
            "(splits.test.rows: 1 and 2; splits.train.rows: 4 and 5; splits.train.views: 2 and 3);"
            in str(error.value)
        )

    def test_the_old_file_makes_room_for_the_new_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, create, seen = tmp_path / "t.h5", writers.create_file, []
        stop_after(path, 3)

        def watched(temporary: Path, **named: Any) -> None:
            seen.extend(sorted(one.name for one in tmp_path.iterdir()))
            assert journal(path).stat().st_size == 0
            create(temporary, **named)

        monkeypatch.setattr(writers, "create_file", watched)
        with open_writer(path, make_manifest(), restart=True):
            assert seen == [journal(path).name]


class TestSeveralProcesses:
    def writers(self, path: Path, count: int) -> list[CacheWriter]:
        """As in the processes that torchrun starts, but they take turns."""
        manifest, said, found = make_manifest(), [], []
        for rank in range(count):
            turn, arrays = InTurn(rank, count, rank, said), make_arrays(manifest)
            found.append(CacheWriter(path, manifest, arrays, block_rows=4, processes=turn))
        return found

    def test_each_fills_its_own_blocks(self, good: bytes, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        before = open_descriptors()
        first, second = self.writers(path, 2)
        assert (first.missing, second.missing) == ([1, 3], [2])
        for writer in (second, first):
            for block in writer.missing:
                write_block(writer, make_manifest(), block)
        assert sorted(one.name for one in tmp_path.iterdir()) == [
            "t.h5.partial",
            "t.h5.partial.journal-0",
            "t.h5.partial.journal-1",
        ]
        first.seal()
        for writer in (first, second):
            writer.close()
        assert path.read_bytes() == good and list(tmp_path.iterdir()) == [path]
        assert open_descriptors() == before

    def test_the_seal_waits_for_all_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ended(self: InTurn) -> None:
            raise PeerError("every process to reach the end", "one that ended early", "see it")

        (first,) = self.writers(tmp_path / "t.h5", 1)
        for block in first.missing:
            write_block(first, make_manifest(), block)
        monkeypatch.setattr(InTurn, "barrier", ended)
        with first, pytest.raises(PeerError):
            first.seal()
        assert not (tmp_path / "t.h5").exists()

    def test_one_that_stops_leaves_its_blocks_to_the_next_run(
        self, good: bytes, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.h5"
        first, second = self.writers(path, 2)
        write_block(second, make_manifest(), 1)
        for writer in (first, second):
            writer.close()
        with open_writer(path, make_manifest()) as alone:
            assert alone.missing == [0, 2, 3]
        write_cache(path, make_manifest())
        assert path.read_bytes() == good


class TestClosing:
    def test_twice_closes_nobody_elses_file(self, tmp_path: Path) -> None:
        before = open_descriptors()
        writer = open_writer(tmp_path / "t.h5", make_manifest())
        writer.close()
        assert open_descriptors() == before
        with open(tmp_path / "other", "wb"), open(tmp_path / "another", "wb"):
            others = open_descriptors()
            writer.close()
            assert open_descriptors() == others

    def test_what_is_refused_leaves_nothing_open(self, tmp_path: Path) -> None:
        path = tmp_path / "t.h5"
        stop_after(path, 1)
        before = open_descriptors()
        with pytest.raises(OptionError) as error:  # which holds the writer's frame
            open_writer(path, make_manifest(teacher="resnet50"))
        assert open_descriptors() == before
        del error

    def test_a_file_that_is_gone_at_the_end_is_told(self, tmp_path: Path) -> None:
        before = open_descriptors()
        with open_writer(tmp_path / "t.h5", make_manifest()) as writer:
            for block in writer.missing:
                write_block(writer, make_manifest(), block)
            partial(tmp_path / "t.h5").unlink()
            with pytest.raises(DataError, match="No such file or directory"):
                writer.seal()
        assert open_descriptors() == before


class TestNoRoom:
    def test_a_full_disk_is_refused_before_any_work_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DataError) as error:
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
        with pytest.raises(DataError) as error:
            open_writer(tmp_path / "file" / "t.h5", make_manifest())
        assert str(error.value).startswith(
            f"expected room and the right to write {tmp_path}/file/t.h5; found "
        )

    def test_a_folder_above_that_cannot_be_read_does_no_harm(
        self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own, sync = tmp_path / "own", files.sync_folder

        def forbidden(folder: Path) -> None:
            if folder != own:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            sync(folder)

        monkeypatch.setattr(files, "sync_folder", forbidden)
        write_cache(own / "t.h5", make_manifest())
        assert (own / "t.h5").read_bytes() == good

    def test_a_disk_that_is_full_at_the_end_is_refused_and_the_work_goes_on(
        self, good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        path = tmp_path / "t.h5"
        stop_after(path, 4)
        with open_writer(path, make_manifest()) as writer:
            assert writer.missing == []
            monkeypatch.setattr(os, "rename", full)
            with pytest.raises(DataError, match="found No space left on device"):
                writer.seal()
        monkeypatch.undo()
        write_cache(path, make_manifest())
        assert path.read_bytes() == good
