"""What the machine's memory is large enough for, and how this process uses it."""

import ctypes
import os
import resource
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)
_GROWTH = 1.6  # times its peak that a process may need when it keeps what it frees, for the gaps; 1.42 was the most seen


def fits(size: int) -> bool:
    """Whether so many bytes are less than half of the machine's memory, which leaves the other half to the work on them."""
    return size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def peak_memory() -> int:
    """Bytes of this process's largest resident set.

    Linux's getrusage would count the parent's, from the moment between fork and exec.
    """
    status = _kibibytes(Path("/proc/self/status"))
    if status:
        return status["VmHWM"] << 10
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> bool:
    """Have this process keep what it frees for its next allocation, where the C library is glibc and there is room enough.

    Else every tensor of more than 32 MiB is mapped afresh, in each step again, and the system fills it with zeros: a third of
    the time of a ResNet-50's step at batch 128 (docs/log.md). The price are gaps, so it is done only where the memory
    holds 1.6 times the largest resident set so far: ask once the work has shown what it needs. A GPU's memory is torch's own
    affair.

    Returns whether it is done.
    """
    library = ctypes.CDLL(None)
    own, machine = _kibibytes(Path("/proc/self/status")), _kibibytes(Path("/proc/meminfo"))
    if (
        not hasattr(library, "mallopt")
        or not own
        or machine["MemAvailable"] + own["VmRSS"] < _GROWTH * own["VmHWM"]
    ):
        return False
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    return True


def give_back_freed_memory() -> None:
    """Return to the system what has been kept so far, where the C library is glibc."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def _kibibytes(path: Path) -> dict[str, int]:
    """The rows 'NAME: NUMBER kB' of a file of Linux's; {} elsewhere."""
    rows = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
    return {row[0].rstrip(":"): int(row[1]) for row in rows if row[-1:] == ["kB"]}
