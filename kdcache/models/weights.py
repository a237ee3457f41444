"""Weights: by a name of torchvision's or from a file, loaded into a model that they must fit."""

from pathlib import Path

import torchvision
from torch import Tensor
from torchvision.models import WeightsEnum

from kdcache.errors import DataError, OptionError
from kdcache.models.preprocessing import (
    DEFAULT_IMAGE_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
)
from kdcache.models.state_dicts import read_state_dict
from kdcache.models.student_card import CARD_FILE, read_student_card

DEFAULT_WEIGHTS = "IMAGENET1K_V1"


def default_weights(name: str) -> str:
    """The weights of a model for which none are named: ImageNet's; random ones for a callable."""
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
