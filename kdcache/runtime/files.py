"""TODO runtime.files."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from kdcache.errors import KdcacheError


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Have `write` fill a temporary file, force it to the disk, and give it its name."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise KdcacheError(
                f"room and the right to write {path}", f"{error.strerror}", "free some space"
            ) from error
        raise


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1))
