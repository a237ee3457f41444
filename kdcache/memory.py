"""What the machine's memory is large enough for."""

import os


def fits(size: int) -> bool:
    """Whether so many bytes are less than half of the machine's memory, which leaves the other half to the work on them."""
    return size < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
