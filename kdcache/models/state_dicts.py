"""State dicts: read without executing anything, loaded into a model that they must fit, and their
digest.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from kdcache.errors import DataError
from kdcache.runtime import load_tensors


def read_state_dict(path: Path, *, foreign: bool = True) -> dict[str, Tensor]:
    """Read a state dict without executing anything that a pickle could hold.

    A file NAME.safetensors needs the package of that name; every other one is torch.save's.
    Wrappers {'state_dict': ...} and {'model': ...} and the prefix of DistributedDataParallel are
    taken off.

    Args:
        foreign: whether others may have saved it, as `load_tensors` says.

    Raises DataError where the file is missing, damaged or holds something else.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = load_tensors(
        path,
        torch.device("cpu"),
        expected="a state dict saved by torch.save",
        remedy="give another file" if foreign else "copy it again or train anew",
        foreign=foreign,
    )
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not _is_state_dict(state):
        raise DataError(
            "a state dict saved by torch.save", f"{path} with something else", "give another file"
        )
    consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    expected, remedy = "a state dict saved by safetensors", "give another file"
    try:
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]: optional

        return load_file(path)
    except ImportError as error:
        remedy = "pip install 'kdcache[safetensors]'"
        raise DataError(f"the package safetensors to read {path}", "none", remedy) from error
    except Exception as error:  # its own, of the file's header, and the system's
        raise DataError(expected, f"{path}, which is not one ({error!s:.100})", remedy) from error


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(key, str) and isinstance(value[key], Tensor) for key in value)


def load_state(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict that must fit in every key and shape.

    The one exception is a new small stem, which keeps its random weights over those of a 7 x 7 one.

    Args:
        what: the model and its weights, for the message.

    Raises DataError, with the first keys that do not fit.
    """
    own = module.state_dict()
    faults = [f"missing {key}" for key in own.keys() - state.keys()]
    faults += [f"unknown {key}" for key in state.keys() - own.keys()]
    fitting = {}
    for key in own.keys() & state.keys():
        shape, given = tuple(own[key].shape), tuple(state[key].shape)
        if shape == given:
            fitting[key] = state[key]
        elif not _is_new_stem(key, shape, given):
            faults.append(f"{key} {given} for {shape}")
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise DataError(
            f"weights that fit {what}",
            ", ".join(sorted(faults)[:4]) + more,
            "give weights of this model",
        )
    module.load_state_dict(fitting, strict=False)


def _is_new_stem(key: str, shape: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Whether these are the kernels of a small stem and those of the 7 x 7 one that it replaced."""
    return key == "conv1.weight" and shape == (*given[:2], 3, 3) and given[2:] == (7, 7)


def state_digest(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of a state dict."""
    sha = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        sha.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
