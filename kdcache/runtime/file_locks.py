"""Locks on files, by which one process keeps the others away; they end with the process."""

import errno
import os
from pathlib import Path

from kdcache.errors import OptionError


def open_locked(path: Path, flags: int = 0, *, wait: bool = False) -> int:
    """Open a file for reading and writing, made where there is none, and lock it.

    A symbolic link in its place is removed, not followed: it may lead to anybody's file.

    Args:
        flags: more of them, for os.open.
        wait: until no other process has locked it.

    Returns the file descriptor. Raises BlockingIOError where another process has locked it and
    `wait` is not given, OSError, and as `try_lock` does.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    while True:
        try:
            fd = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP or not path.is_symlink():
                raise
            path.unlink(missing_ok=True)
            continue
        try:
            if not try_lock(fd, wait=wait):
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            if _is_named(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # removed or renamed before it was locked: it would keep nobody away


def try_lock(fd: int, *, wait: bool = False) -> bool:
    """Lock an open file, unless another process has; whether it is locked now.

    A file system without locks keeps nobody away, and counts as locked.

    Args:
        wait: until it can be locked.

    Raises OptionError where the system has no such locks, as on Windows.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OptionError("Linux or macOS", "a system without fcntl", "use WSL 2") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_named(fd: int, path: Path) -> bool:
    """Whether an open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False
