"""Locks on files, by which one process keeps the others away; they end with the process."""

from kdcache.errors import OptionError


def try_lock(fd: int) -> bool:
    """Lock an open file, unless another process has; whether it is locked now.

    A file system without locks keeps nobody away, and counts as locked.

    Raises OptionError where the system has no such locks, as on Windows.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OptionError("Linux or macOS", "a system without fcntl", "use WSL 2") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
