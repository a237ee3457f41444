"""TODO runtime.tensor_files."""

from pathlib import Path
from typing import Any

import torch

from kdcache.errors import KdcacheError
from kdcache.runtime.files import write_atomically


def save_tensors(path: Path, state: Any) -> None:
    write_atomically(path, lambda file: torch.save(state, file))


def load_tensors(path: Path, device: torch.device) -> Any:
    """What `save_tensors` wrote, without executing anything that a pickle could hold."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise KdcacheError(
            "a checkpoint as train_student.py writes it", f"{path}, which is not one", "train anew"
        ) from error
