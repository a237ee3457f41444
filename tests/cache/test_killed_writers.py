"""A writer that dies at any of its calls: nothing wrong is left, and the work goes on."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cache_makers import (
    assert_right,
    journal,
    make_manifest,
    open_writer,
    write_block,
    write_cache,
)

from kdcache.cache.reader import open_cache
from kdcache.errors import KdcacheError


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it and go on."""


class Guillotine:
    """Lets `count` system calls through that write, tears the next one, and lets none through then.

    Torn means: not begun; or, with `torn`, half of the bytes written, or the call done but not
    returned from.
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
        """Resuming writes too, and is killed in its turn.

        An early and a late first death, and every second one.
        """
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
        """Against a loss of power.

        A block before its record, all of the file before its name, the folder after it.
        """
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
