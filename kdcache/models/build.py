"""TODO models.build."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from kdcache.config import import_object
from kdcache.errors import KdcacheError, OptionError
from kdcache.models.heads import has_small_stem, head_of, make_small_stem, outputs_of, replace_head
from kdcache.models.preprocessing import Preprocessing
from kdcache.models.weights import default_weights, known_preprocessing, load_state, load_weights

_MOVED = {
    "kdcache.small_resnets": "kdcache.models.small_resnets"
}  # files of 0.1.0 name the old place


@dataclass(frozen=True)
class Model:
    """A model with what its weights say about themselves."""

    module: nn.Module
    name: str
    weights: str
    preprocessing: Preprocessing
    pretrained: bool


def build_model(
    name: str,
    weights: str | None,
    *,
    seed: int,
    classes: int | None = None,
    small_stem: bool = False,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Model:
    """Build a model and load its weights.

    Args:
        name: a torchvision classification model, or 'package.module:callable', which returns an nn.Module.
        weights: a torchvision weights name, 'none' (random from `seed`), or a file with a state dict; None
            means IMAGENET1K_V1 for torchvision's models and 'none' for a callable.
        classes: outputs of a new head, which replaces the weights' own if they have another number;
            None keeps the weights' own.
        small_stem: replace the stem by a 3 x 3 stride-1 convolution without max-pool (ResNets).
        image_size, mean, std: given by the user; None takes the weights' own.

    Raises KdcacheError where the name is unknown or the weights cannot be had or do not fit.
    """
    weights = weights or default_weights(name)
    known, state = known_preprocessing(name, weights), load_weights(name, weights)
    overrides = {"image_size": image_size, "mean": mean, "std": std}
    preprocessing = dataclasses.replace(
        known, **{key: value for key, value in overrides.items() if value is not None}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = _construct(name, state, classes, small_stem, preprocessing.image_size)
    if state is not None:
        load_state(module, state, f"{name} from {weights}")
        if classes is not None and outputs_of(module) not in (None, classes):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                replace_head(module, classes)
    return Model(module, name, weights, preprocessing, pretrained=state is not None)


def _construct(
    name: str,
    state: dict[str, Tensor] | None,
    classes: int | None,
    small_stem: bool,
    image_size: int,
) -> nn.Module:
    """An uninitialised-by-weights model whose head and stem fit `state`, or the wishes where there is none."""
    if ":" in name:
        module = _call(name)
        if small_stem:
            make_small_stem(module, name)
        if state is None and classes is not None and outputs_of(module) not in (None, classes):
            replace_head(module, classes)
        return module
    arguments: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in ("inception_v3", "googlenet"):
        arguments["transform_input"] = (
            True  # as torchvision does for its weights: they want another normalisation
        )
    if state is not None:
        with torch.device("meta"):
            blank = torchvision.models.get_model(name)
        head_name = head_of(blank)[0] + ".weight"
        classes = state[head_name].shape[0] if head_name in state else None
    try:
        module = torchvision.models.get_model(
            name, **arguments, **({"num_classes": classes} if classes else {})
        )
    except (AssertionError, RuntimeError, ValueError) as error:
        raise KdcacheError(
            f"an --image-size that {name} takes", f"{image_size} ({error})", "give another one"
        ) from error
    if small_stem or (state is not None and has_small_stem(module, state)):
        make_small_stem(module, name)
    if state is not None and "image_size" in arguments and "encoder.pos_embedding" in state:
        state |= interpolate_embeddings(image_size, module.patch_size, dict(state))
    return module


def _call(name: str) -> nn.Module:
    """What 'package.module:callable' returns."""
    package, _, attribute = name.partition(":")
    make = import_object(f"{_MOVED.get(package, package)}:{attribute}")
    if not callable(make):
        raise OptionError(f"{name} to be callable", type(make).__name__, "correct the name")
    try:
        module = make()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = f"{name} to return a model when it is called without arguments"
        raise OptionError(expected, f"{error}", "correct the callable") from error
    if not isinstance(module, nn.Module):
        raise OptionError(
            f"{name}() to return an nn.Module", type(module).__name__, "correct the callable"
        )
    return module
