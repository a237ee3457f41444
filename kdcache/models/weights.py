"""Weights: by a name of torchvision's or timm's, or from a file; and what they say of a model."""

from pathlib import Path
from typing import Literal

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
from kdcache.models.timm_models import PREFIX, PRETRAINED, timm_preprocessing

ModelSource = Literal["torchvision", "timm", "callable"]
_DEFAULT_WEIGHTS: dict[ModelSource, str] = {
    "torchvision": "IMAGENET1K_V1",
    "timm": PRETRAINED,
    "callable": "none",
}


def source_of(name: str) -> ModelSource:
    """Where a model comes from, by its name alone."""
    if name.startswith(PREFIX):
        return "timm"
    return "callable" if ":" in name else "torchvision"


def device_to_look_at(name: str) -> str:
    """Where a model is built that is only to be looked at: meta costs nothing, and suits most.

    Others than torchvision's may insist on a real device, as its RegNets do.
    """
    return "meta" if source_of(name) == "torchvision" and "regnet" not in name else "cpu"


def default_weights(name: str) -> str:
    """The weights of a model for which none are named: pretrained ones; none for a callable."""
    return _DEFAULT_WEIGHTS[source_of(name)]


def known_preprocessing(name: str, weights: str) -> Preprocessing:
    """What is known of a model's input and classes, without loading its weights.

    Raises OptionError where there is no such model or no such weights.
    """
    source, of_file = source_of(name), weights != "none" and Path(weights).is_file()
    known = torchvision.models
    if source == "torchvision" and name not in known.list_models(module=known):
        raise OptionError(
            "a torchvision classification model, timm/NAME or package.module:callable",
            name,
            "see torchvision.models.list_models()",
        )
    if of_file and (card := Path(weights).with_name(CARD_FILE)).is_file():
        return read_student_card(card).preprocessing
    unnamed = weights == "none" or of_file
    if source == "timm" and (unnamed or weights == PRETRAINED):
        return timm_preprocessing(name, weights)
    if unnamed:
        return Preprocessing(DEFAULT_IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD)
    if source != "torchvision":
        named = "none" if source == "callable" else f"{PRETRAINED}, none"
        expected = f"{named} or a file as weights of {name}"
        raise OptionError(expected, weights, "give the path of a state dict")
    entry = _torchvision_entry(name, weights)
    transforms = entry.transforms()
    return Preprocessing(
        transforms.crop_size[0],
        tuple(transforms.mean),
        tuple(transforms.std),
        tuple(entry.meta["categories"]),
        transforms.interpolation.value,
    )


def load_weights(name: str, weights: str) -> dict[str, Tensor] | None:
    """The state dict that `weights` names; None for random weights, and for timm's own.

    Raises DataError where it cannot be had.
    """
    if weights == "none" or (source_of(name) == "timm" and weights == PRETRAINED):
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
