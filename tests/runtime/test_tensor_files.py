"""Files of tensors are what was written, or refused; torch.load reads them as any other."""

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdcache.errors import DataError
from kdcache.runtime import load_tensors, save_tensors, tensor_files
from kdcache.runtime.tensor_files import _digest, _Hashing

CPU = torch.device("cpu")
STATE = {"weight": torch.arange(7.0), "count": torch.tensor(3), "epoch": 5}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "last.pt", STATE)
    return tmp_path / "last.pt"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """As 0.1.0 wrote it, without a SHA-256."""
    torch.save(STATE, tmp_path / "bare.pt")
    return tmp_path / "bare.pt"


def same(found: dict[str, torch.Tensor]) -> bool:
    if found.keys() != STATE.keys() or found["epoch"] != STATE["epoch"]:
        return False
    return all(torch.equal(found[key], STATE[key]) for key in ("weight", "count"))


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_tensors(path, CPU)
    return error.value.found


def test_tensors_come_on_the_device_that_is_asked_for(saved: Path) -> None:
    meta = torch.device("meta")
    assert load_tensors(saved, meta)["weight"].device == meta


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_it_as_any_other(saved: Path, mmap: bool) -> None:
    assert same(torch.load(saved, weights_only=True, mmap=mmap))


def test_zip_readers_find_it_whole(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None


def test_the_same_state_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_tensors(tmp_path / "again.pt", STATE)
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("digest", [True, False], ids=["with a digest", "of 0.1.0"])
def test_no_changed_byte_gives_other_numbers(
    digest: bool, foreign: bool, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue("saved" if digest else "bare")
    if foreign and not digest:
        pytest.skip("nothing speaks for a stranger's file")
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF if place % 3 else 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = load_tensors(path, CPU, foreign=foreign)
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            continue
        assert not digest, place
        assert same(found), place


@pytest.mark.parametrize("name", ["saved", "bare"])
def test_no_other_length_is_accepted(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refusal(path)
    for more in (b"\0", b"more"):
        path.write_bytes(content + more)
        refusal(path)


def test_pieces_that_are_read_at_a_time_do_not_show(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "_CHUNK", 7)
    assert same(load_tensors(saved, CPU))


def test_it_says_what_is_damaged(saved: Path, bare: Path) -> None:
    for path, fault in (
        (saved, "its SHA-256 is not the one that was recorded"),
        (bare, "the CRC32 of bare/data/0 is not the one that was recorded"),
    ):
        content = path.read_bytes()
        place = content.index(STATE["weight"].numpy().tobytes())
        path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
        assert refusal(path) == f"{path}, which is damaged: {fault}"
    save_tensors(saved, STATE)
    saved.write_bytes(saved.read_bytes()[:-1] + b"x")
    assert refusal(saved) == f"{saved}, which is damaged: its SHA-256 cannot be read"
    saved.write_bytes(saved.read_bytes() + b"x")
    assert refusal(saved) == f"{saved}, which is damaged: its end is not the one that was written"


@pytest.mark.parametrize("form", ["zip", "older", "without CRC32s"])
def test_what_others_saved(form: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save: Callable[..., None] = torch.save
    if form == "without CRC32s":
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        save(STATE, path)
        torch.serialization.set_crc32_options(before)
    else:
        save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    assert same(load_tensors(path, CPU, foreign=True))
    if form != "zip":
        refusal(path)  # we never wrote it


@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_is_told_though_torch_raises_an_error_of_its_own(
    call: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = _Hashing.write, []

    def full(self: _Hashing, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    monkeypatch.setattr(_Hashing, "write", full)
    with pytest.raises(DataError) as error:
        save_tensors(saved, {"weight": torch.zeros(3)})
    assert error.value.found == "No space left on device"
    cause = error.value.__cause__
    assert isinstance(cause, OSError) and cause.errno == errno.ENOSPC
    assert same(load_tensors(saved, CPU)) and [saved] == list(saved.parent.iterdir())


def test_an_error_of_torchs_alone_stays_what_it_is(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("torch's own")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match=r"^torch's own$"):
        save_tensors(saved, STATE)
    assert same(load_tensors(saved, CPU))


def test_a_file_that_is_cut_short_while_it_is_read_has_another_digest(saved: Path) -> None:
    with open(saved, "rb") as file:
        size = saved.stat().st_size - 79  # the comment is 15 + 64 bytes
        assert _digest(file, size).encode() == saved.read_bytes()[-64:]
        for left in (size - 1, 100, 0):
            os.truncate(saved, left)
            assert _digest(file, size) != _digest(file, left + 2)


@pytest.mark.parametrize("call", range(1, 6))
def test_ctrl_c_while_it_is_written_stays_ctrl_c(
    call: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save calls the file from C++, and ends in a RuntimeError of its own."""
    write, calls = _Hashing.write, []

    def interrupted(self: _Hashing, data: bytes) -> int:
        calls.append(len(data))
        if len(calls) == call:
            raise KeyboardInterrupt
        return write(self, data)

    monkeypatch.setattr(_Hashing, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_tensors(saved, STATE)
    assert len(calls) >= call
    assert same(load_tensors(saved, CPU)) and [saved] == list(saved.parent.iterdir())
