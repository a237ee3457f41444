"""TODO cache.verify."""

import resource
import subprocess
import sys
from pathlib import Path

from kdcache.cache.reader import Cache, open_cache

_CHILD_SECONDS, _CHILD_BYTES = 120, 16 << 30


def verify(path: Path) -> Cache:
    """Check every byte. Raises CacheDamagedError naming the first part or block that is not what was written."""
    return open_cache(path, check_logits=True)


def verify_in_child(path: Path) -> str | None:
    """Check every byte in a process with limits on time and memory, which a forged file may take down.

    Returns None, or in one line what was wrong.
    """
    command = [sys.executable, "-m", "kdcache", "verify", str(path)]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            preexec_fn=_limit,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"reading it took more than {_CHILD_SECONDS} s"
    if child.returncode < 0:
        return f"reading it killed the reading process (signal {-child.returncode})"
    lines = child.stderr.strip().splitlines()
    return (
        None if child.returncode == 0 else lines[-1] if lines else f"exit code {child.returncode}"
    )


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
