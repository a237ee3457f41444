"""The machine's memory: what it is large enough for, and what the allocator keeps of it."""

import ctypes
import os
import resource
import sys
from pathlib import Path

_M_TRIM_THRESHOLD = -1  # of glibc's mallopt(3)
_M_MMAP_MAX = -4

# A process that keeps what it frees may need this many times its peak, since its memory fragments;
# 1.42 was the most seen.
_FRAGMENTATION = 1.6
_PROCESS = 512 << 20  # bytes of a process beside that, at most: libraries, pictures


def fits_in_memory(size: int) -> bool:
    """Whether `size` bytes are less than half of the machine's memory.

    The other half is left to the work that is done on them.
    """
    return size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def peak_memory() -> int:
    """Bytes of this process's largest resident set.

    Linux's getrusage would count the parent's, from the moment between fork and exec.
    """
    status = _read_kibibytes(Path("/proc/self/status"))
    if status:
        return status["VmHWM"] << 10
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processes_that_fit(size: float) -> int:
    """How many processes can keep what they free, where each computes on `size` bytes."""
    available = _read_kibibytes(Path("/proc/meminfo")).get("MemAvailable", 0) << 10
    if not available:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return int(available / (_PROCESS + _FRAGMENTATION * size))


def keep_freed_memory() -> bool:
    """Have this process keep what it frees for its next allocation, where there is room for it.

    Otherwise every tensor of more than 32 MiB is mapped afresh, in each step again, and the system
    fills it with zeros: a third of the time of a ResNet-50's step at batch 128 (docs/log.md). The
    price is fragmentation, so it is done only where the memory holds 1.6 times the largest resident
    set so far: call this once the work has shown what it needs. A GPU's memory is torch's own
    affair. Other C libraries than glibc have no such setting.

    It changes the whole process, so only command lines call it. Returns whether it is done.
    """
    library = ctypes.CDLL(None)
    own = _read_kibibytes(Path("/proc/self/status"))
    if not hasattr(library, "mallopt") or not own:
        return False
    machine = _read_kibibytes(Path("/proc/meminfo"))
    if machine["MemAvailable"] + own["VmRSS"] < _FRAGMENTATION * own["VmHWM"]:
        return False
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    return True


def give_back_freed_memory() -> None:
    """Return to the system what has been kept so far, where the C library is glibc."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _read_kibibytes(path: Path) -> dict[str, int]:
    """The rows 'NAME: NUMBER kB' of a file below Linux's /proc; {} on other systems."""
    if not path.exists():
        return {}
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if row[-1:] == ["kB"]}
