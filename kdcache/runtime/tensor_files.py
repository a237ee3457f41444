"""Files of tensors: written whole or not at all, and read without executing what they hold."""

from pathlib import Path
from typing import Any, BinaryIO

import torch

from kdcache.errors import DataError
from kdcache.runtime.files import write_atomically


def save_tensors(path: Path, state: Any) -> None:
    """Write nested containers of tensors, numbers and texts with torch.save.

    Raises DataError where there is no room, or no right to write there.
    """
    write_atomically(path, lambda file: _save(state, file))


def _save(state: Any, file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        hidden = error.__context__  # torch's own error takes the place of what the file raised
        if isinstance(hidden, OSError):
            raise OSError(hidden.errno, hidden.strerror) from error
        raise


def load_tensors(path: Path, device: torch.device) -> Any:
    """Read what `save_tensors` wrote, with its tensors on `device`.

    Nothing that a pickle could hold is executed. Raises DataError where the file is missing or
    damaged.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise DataError(
            "a checkpoint as train_student.py writes it", f"{path}, which is not one", "train anew"
        ) from error
