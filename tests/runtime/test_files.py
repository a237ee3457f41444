"""Files written whole or not at all, whatever stops the writing; and what is said then."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_makers import open_descriptors

from kdcache.errors import DataError, OptionError
from kdcache.runtime import (
    load_tensors,
    open_locked,
    os_errors_as_data_errors,
    reserve,
    save_tensors,
    sync_folder,
    write_all,
    write_atomically,
    write_json,
    write_text,
)
from kdcache.runtime.file_locks import try_lock

CPU = torch.device("cpu")


def failing(number: int) -> Callable[..., Any]:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


FREE_SPACE = "free some space or write to another folder"


def message(path: Path, call: Callable[[], object], remedy: str = FREE_SPACE) -> str:
    """What a DataError found, after checking its other parts."""
    with pytest.raises(DataError) as error:
        call()
    assert error.value.expected == f"room and the right to write {path}"
    assert error.value.remedy == remedy
    return error.value.found


def test_texts_and_json_end_in_a_line_break(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "naïve")
    assert (tmp_path / "text").read_bytes() == "naïve\n".encode()
    write_json(tmp_path / "json", {"a": [1, None]})
    assert (tmp_path / "json").read_bytes() == b'{\n "a": [\n  1,\n  null\n ]\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["json", "text"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError("no")], ids=str)
def test_what_was_there_stays_when_the_writing_is_stopped(
    interruption: Any, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def stopped(file: Any) -> None:
        file.write(b"ne")
        raise interruption

    with pytest.raises((KeyboardInterrupt, ValueError)):
        write_atomically(path, stopped)
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_they_have_the_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another file gets the name: whoever has the old one open goes on reading that."""
    path, calls = tmp_path / "file", []
    write_text(path, "old")
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(fd: int) -> None:
        if not calls:
            assert os.fstat(fd).st_size == len("new\n") and path.read_text() == "old\n"
        calls.append(os.fstat(fd).st_ino)
        fsync(fd)

    def recorded_replace(source: Path, target: Path) -> None:
        calls.append(os.stat(source).st_ino)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with open(path) as old:
        write_text(path, "new")
        assert old.read() == "old\n"
    assert calls == [os.stat(path).st_ino] * 2 + [os.stat(tmp_path).st_ino]
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_in_one_line(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    assert message(path, lambda: write_text(path, "new")) == "No space left on device"
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_file_system_refuses_the_removal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may become one between two calls: Linux remounts a file system so when its disk fails."""
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", failing(errno.EROFS))
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
    assert message(path, lambda: write_text(path, "new")) == "Read-only file system"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    path = tmp_path / "file"
    assert message(path, lambda: write_text(path, "new")) == "Permission denied"
    tmp_path.chmod(0o700)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path, remedy = tmp_path / "none" / "file", "make its folder or write to another one"
    assert message(path, lambda: write_text(path, "new"), remedy) == "No such file or directory"
    (tmp_path / "none").write_text("a file")
    assert message(path, lambda: write_text(path, "new"), remedy) == "Not a directory"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 252)  # 255 are allowed, but not with .tmp behind it
    remedy = "give a shorter name"
    assert message(path, lambda: write_text(path, "new"), remedy) == "File name too long"
    found = message(tmp_path, lambda: write_text(tmp_path, "new"), "give the name of a file")
    assert found == "Is a directory"


def test_tensors_come_back(tmp_path: Path) -> None:
    state = {"weights": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["a", "b"]}
    save_tensors(tmp_path / "state.pt", state)
    found = load_tensors(tmp_path / "state.pt", CPU)
    assert torch.equal(found.pop("weights"), state.pop("weights"))
    assert found == state


_SAVE = """
import resource, sys, torch
from pathlib import Path
from kdcache.errors import DataError
from kdcache.runtime import save_tensors
path = Path(sys.argv[1])
told = []
for limit in (100, 1_000, 200_000, 400_800):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_tensors(path, {"large": torch.zeros(100_000), "small": torch.zeros(3)})
    except DataError as error:
        told.append(error.found)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(told, [entry.name for entry in path.parent.iterdir()])
"""


def test_a_disk_that_is_full_amid_the_tensors(tmp_path: Path) -> None:
    """torch.save may raise an error of its own then; 400,000 bytes are one tensor's."""
    command = [sys.executable, "-c", _SAVE, str(tmp_path / "state.pt")]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.stdout == f"{['File too large'] * 4} []\n", done.stderr


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"text"], ids=str)
def test_a_file_without_tensors_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load_tensors(path, CPU)
    assert str(error.value) == (
        "expected a checkpoint as train_student.py writes it;"
        f" found {path}, which is not one; train anew"
    )


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save(Payload(), tmp_path / "last.pt")
    with pytest.raises(DataError):
        load_tensors(tmp_path / "last.pt", CPU)
    assert not (tmp_path / "executed").exists()


def test_writes_that_the_kernel_cuts_short_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, pwrite = os.write, os.pwrite
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_all(fd, b"0123456789")
    write_all(fd, b"abcdefg", 2)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"01abcdefg9"


def test_room_is_reserved_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "file", "wb") as file:
        monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC), raising=False)
        with pytest.raises(OSError, match="No space left on device"):
            reserve(file.fileno(), 100)
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        reserve(file.fileno(), 100)
    assert (tmp_path / "file").stat().st_size == 0


def test_a_folder_is_synchronised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]


def test_without_fcntl_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(OptionError) as error:
        open_locked(tmp_path / "lock")
    assert str(error.value) == "expected Linux or macOS; found a system without fcntl; use WSL 2"
    assert open_descriptors() == before


def test_the_lock_of_another_process_is_no_error_of_ours(tmp_path: Path) -> None:
    held = open_locked(tmp_path / "lock")
    before = open_descriptors()
    with pytest.raises(BlockingIOError) as error:
        open_locked(tmp_path / "lock")
    assert error.value.errno == errno.EWOULDBLOCK
    assert error.value.strerror == os.strerror(errno.EWOULDBLOCK)
    assert open_descriptors() == before
    other = os.open(tmp_path / "lock", os.O_RDWR)
    assert not try_lock(other)
    os.close(held)
    assert try_lock(other)
    os.close(other)


def test_a_new_file_is_for_all_whom_the_mask_allows(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666


def test_flags_are_added_to_those_that_a_lock_needs(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("abc")
    fd = open_locked(tmp_path / "lock", os.O_APPEND)
    os.write(fd, b"d")
    assert os.pread(fd, 9, 0) == b"abcd"
    os.close(fd)


def test_nothing_stays_open(tmp_path: Path) -> None:
    def failing_to_write(file: Any) -> None:
        raise ValueError("no")

    before = open_descriptors()
    write_text(tmp_path / "file", "text")
    sync_folder(tmp_path)
    with pytest.raises(ValueError, match="no"):
        write_atomically(tmp_path / "file", failing_to_write)
    with pytest.raises(OSError, match="Not a directory"):
        sync_folder(tmp_path / "file" / "folder")
    assert open_descriptors() == before


def test_each_kind_of_failure_has_its_remedy() -> None:
    for number, remedy in (
        (errno.ENOSPC, "the usual"),
        (errno.ENOENT, "make its folder or write to another one"),
        (errno.ENOTDIR, "make its folder or write to another one"),
        (errno.EISDIR, "give the name of a file"),
        (errno.ENAMETOOLONG, "give a shorter name"),
    ):
        with pytest.raises(DataError) as error, os_errors_as_data_errors("it", "the usual"):
            raise OSError(number, "reason")
        expected = f"expected room and the right to write it; found reason; {remedy}"
        assert str(error.value) == expected
    with pytest.raises(DataError) as error, os_errors_as_data_errors("it", "the usual"):
        raise OSError("without a number")
    assert (error.value.found, error.value.remedy) == ("without a number", "the usual")


class TestSymbolicLinks:
    """Somebody else may have put one where a file of ours is about to be written."""

    def test_a_temporary_file_is_not_written_through_one(self, tmp_path: Path) -> None:
        victim, path = tmp_path / "victim", tmp_path / "summary.json"
        victim.write_text("precious")
        Path(f"{path}.tmp").symlink_to(victim)
        write_json(path, {"a": 1})
        assert victim.read_text() == "precious"
        assert json.loads(path.read_text()) == {"a": 1} and not path.is_symlink()
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["summary.json", "victim"]

    def test_one_that_leads_nowhere_makes_nothing_there(self, tmp_path: Path) -> None:
        (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
        os.close(open_locked(tmp_path / "lock"))
        assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]
        assert (tmp_path / "lock").is_file() and not (tmp_path / "lock").is_symlink()

    def test_a_loop_of_them_in_the_folders_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            open_locked(tmp_path / "loop" / "lock")


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.tmp").write_text("longer than what is written now")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_come_one_after_the_other(tmp_path: Path) -> None:
    """The second begins while the first is at it: neither sees a file of the other's bytes."""
    path, seen = tmp_path / "file", []

    def second() -> None:
        write_text(path, "second")

    def first(file: Any) -> None:
        thread.start()
        thread.join(0.2)
        seen.append(path.exists())
        file.write(b"first\n")

    thread = threading.Thread(target=second)
    write_atomically(path, first)
    thread.join()
    assert seen == [False], "the second waits"
    assert path.read_text() == "second\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_lock_on_a_file_that_lost_its_name_keeps_nobody_away(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = open_locked(path)
    with pytest.raises(BlockingIOError):
        open_locked(path)
    path.rename(tmp_path / "other")
    other = open_locked(path)
    assert os.path.samestat(os.fstat(other), os.stat(path))
    assert not os.path.samestat(os.fstat(held), os.fstat(other))
    os.close(held)
    os.close(other)


def test_a_file_system_without_locks_keeps_nobody_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    os.close(open_locked(tmp_path / "lock"))
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text\n"
