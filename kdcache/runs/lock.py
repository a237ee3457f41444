"""The lock on a run's folder: only one process at a time writes a run, or two would be mixed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kdcache.errors import OptionError
from kdcache.runs.folder import writing
from kdcache.runtime import make_folder, open_locked

_LOCK_FILE = "lock"


@contextlib.contextmanager
def claim(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process may write a run's folder, which is made where there is none.

    Nobody else may until the end of the block, or of the process. A file system without locks
    keeps nobody away.

    Args:
        wait: until no other process is at it.

    Raises DataError where the folder cannot be written.
    """
    with writing(folder):
        make_folder(folder)
        try:
            fd = open_locked(folder / _LOCK_FILE, wait=wait)
        except BlockingIOError:
            fd = None
    if fd is None:
        yield False
        return
    try:
        yield True
    finally:
        os.close(fd)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only one who writes a run's folder until the end of the block.

    Raises OptionError where another process is at it, and as `claim` does.
    """
    with claim(folder) as mine:
        if not mine:
            raise OptionError(
                f"no other run writing {folder}",
                "one that is still going on",
                "wait for it or give another --out",
            )
        yield
