"""What torchrun tells a process that it starts, and is told by one that fails; without torch."""

import json
import os
import time
from contextlib import suppress

from kdcache.runtime.files import write_all


def is_main_process() -> bool:
    """Whether this is the main one of the job's processes, which alone reports."""
    return os.environ.get("RANK", "0") == "0"


def tell_torchrun(message: str) -> bool:
    """Have torchrun show in its summary why this process failed.

    Returns whether it will; False where torchrun did not start this process.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return False
    document = {"message": message, "timestamp": int(time.time())}
    with suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(fd, json.dumps(document).encode())
        finally:
            os.close(fd)
        return True
    return False
