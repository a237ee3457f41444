"""What a process does with memory that it freed."""

import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kdcache.runtime import host_memory as memory

_FAULTS = """
import resource, torch
from kdcache.runtime import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.empty(256 << 20, dtype=torch.uint8).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for mebibytes in (160, 128, 96):
    torch.empty(mebibytes << 20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that the system provides for tensors of 160, 128 and 96 MiB after one of 256."""
    code = _FAULTS.format(keep=keep)
    root = Path(__file__).parent.parent.parent
    return int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    assert faults(keep=True) < 48  # 384 MiB are 98,304 pages, or 192 huge ones
    assert faults(keep=False) >= 192


@pytest.mark.parametrize(("available", "kept"), [(700, True), (600, True), (599, False)])
def test_it_is_kept_where_there_is_room_for_fragmentation(
    available: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process had 1,000 kB at its peak and has 1,000 now: 600 more make 1.6 times the peak."""
    calls = []
    library = type("Library", (), {"mallopt": lambda self, *arguments: calls.append(arguments)})()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    found = {"status": {"VmRSS": 1000, "VmHWM": 1000}, "meminfo": {"MemAvailable": available}}
    monkeypatch.setattr(memory, "_read_kibibytes", lambda path: found[path.name])
    assert memory.keep_freed_memory() == kept
    assert calls == [(-4, 0), (-1, -1)] * kept


@pytest.mark.parametrize(
    ("available", "size", "processes"),
    [(6337, 1000, 3), (6335, 1000, 2), (600, 0, 1), (500, 0, 0), (6337, math.inf, 0)],
)
def test_processes_fit_with_their_fragmentation(
    available: int, size: float, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MiB: one that computes on 1,000 needs 512 + 1.6 * 1,000 = 2,112; three 6,336."""
    found = {"meminfo": {"MemAvailable": available << 10}}
    monkeypatch.setattr(memory, "_read_kibibytes", lambda path: found[path.name])
    assert memory.processes_that_fit(size * 2**20) == processes


@pytest.mark.parametrize(
    "library",
    [object(), type("Glibc", (), {"mallopt": lambda self, *arguments: pytest.fail("called")})()],
)
def test_elsewhere_nothing_happens(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc, or without Linux's files about memory."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(memory, "_read_kibibytes", lambda path: {})
    assert not memory.keep_freed_memory()
    memory.give_back_freed_memory()


def test_rows_in_kibibytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t   12 kB\nThreads:\t3\n")
    assert memory._read_kibibytes(tmp_path / "status") == {"VmHWM": 12}
    assert memory._read_kibibytes(tmp_path / "missing") == {}
