"""Checks a whole cache, here or in a child process with limits.

`python -m kdcache.cache.verify PATH` is that child.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

from kdcache.cache.reader import Cache, open_cache
from kdcache.errors import CacheDamagedError, KdcacheError

_CHILD_SECONDS = 120
_CHILD_BYTES = 16 << 30


def verify_cache(path: Path) -> Cache:
    """Check every byte. Raises as `open_cache` does, naming the first part that is damaged."""
    return open_cache(path, check_logits=True)


def verify_in_child(path: Path) -> str | None:
    """Check every byte in a process with limits on time and memory, which a forged file may kill.

    Returns None, or in one line what was wrong.
    """
    # The child imports what this process would, whatever lies in the current folder.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONSAFEPATH": "1",
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            preexec_fn=_limit,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"reading it took more than {_CHILD_SECONDS} s"
    if child.returncode == 0:
        return None
    if child.returncode < 0:
        return f"reading it killed the reading process (signal {-child.returncode})"
    lines = child.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {child.returncode}"


def main(arguments: list[str]) -> int:
    """What the child does: exit code 0, 1 for a damaged cache or 2 for no cache, and one line."""
    try:
        verify_cache(Path(arguments[0]))
    except KdcacheError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1 if isinstance(error, CacheDamagedError) else 2
    return 0


def _limit() -> None:
    """In the child, before it becomes Python."""
    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_BYTES, _CHILD_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
