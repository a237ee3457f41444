"""What the machine's memory is large enough for, and how this process uses it."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)


def fits(size: int) -> bool:
    """Whether so many bytes are less than half of the machine's memory, which leaves the other half to the work on them."""
    return size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def keep_freed_memory() -> None:
    """From now on this process keeps what it frees for its next allocation, where the C library is glibc.

    Else every tensor of more than 32 MiB is mapped afresh, in each step again, and the system fills it with zeros: a third of
    the time of a ResNet-50's step at batch 128 (docs/performance.md). A GPU's memory is torch's own affair.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
