"""TODO models.weights."""

import hashlib
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from kdcache.errors import DataError, KdcacheError, OptionError
from kdcache.models.preprocessing import (
    DEFAULT_IMAGE_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
)
from kdcache.models.student_card import CARD_FILE, read_student_card

DEFAULT_WEIGHTS = "IMAGENET1K_V1"


def default_weights(name: str) -> str:
    """The weights of a model for which none were named: ImageNet's for torchvision's, random ones for a callable."""
    return "none" if ":" in name else DEFAULT_WEIGHTS


def known_preprocessing(name: str, weights: str) -> Preprocessing:
    """What is known of a model's input and classes, without loading its weights.

    Raises OptionError where there is no such model or no such weights.
    """
    default = Preprocessing(DEFAULT_IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD)
    if ":" not in name and name not in torchvision.models.list_models(module=torchvision.models):
        raise OptionError(
            "a torchvision classification model or package.module:callable",
            name,
            "see torchvision.models.list_models()",
        )
    if weights == "none":
        return default
    if Path(weights).is_file():
        card = Path(weights).with_name(CARD_FILE)
        return read_student_card(card).preprocessing if card.is_file() else default
    if ":" in name:
        expected, remedy = f"none or a file as weights of {name}", "give the path of a state dict"
        raise OptionError(expected, weights, remedy)
    entry = _torchvision_entry(name, weights)
    transforms = entry.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing(transforms.crop_size[0], mean, std, tuple(entry.meta["categories"]))


def load_weights(name: str, weights: str) -> dict[str, Tensor] | None:
    """The state dict that `weights` names; None for random weights.

    Raises DataError where it cannot be had.
    """
    if weights == "none":
        return None
    if Path(weights).is_file():
        return read_state_dict(Path(weights))
    entry = _torchvision_entry(name, weights)
    try:
        return entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"a network to download {name} {weights}",
            f"none ({error})",
            f"download {entry.url} elsewhere and give the file's path as weights",
        ) from error


def _torchvision_entry(name: str, weights: str) -> WeightsEnum:
    choices = torchvision.models.get_model_weights(name)
    if weights not in choices.__members__:
        known = f"weights of {name}: {', '.join(choices.__members__)}, none or a file"
        raise OptionError(known, weights, "correct the name or path")
    return choices[weights]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without executing anything that a pickle could hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise KdcacheError(
            "a state dict saved by torch.save", f"{path}, which is not one", "give another file"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise KdcacheError(
            "a state dict saved by torch.save", f"{path} with something else", "give another file"
        )
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    own = module.state_dict()
    faults = [f"missing {key}" for key in own.keys() - state.keys()]
    faults += [f"unknown {key}" for key in state.keys() - own.keys()]
    faults += [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape and not _is_new_stem(key, own)
    ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise KdcacheError(
            f"weights that fit {what}",
            ", ".join(sorted(faults)[:4]) + more,
            "give weights of this model",
        )
    fitting = {key: value for key, value in state.items() if own[key].shape == value.shape}
    module.load_state_dict(fitting, strict=False)


def _is_new_stem(key: str, own: dict[str, Tensor]) -> bool:
    """The small stem's kernels do not come from 7 x 7 weights: they start afresh."""
    return key == "conv1.weight" and own[key].shape[2:] == (3, 3)


def state_digest(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of a state dict."""
    sha = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        sha.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
