"""Builds a model by name, torchvision's or a callable of the user's own, and loads its weights."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from kdcache.config import import_object
from kdcache.errors import OptionError
from kdcache.models.heads import (
    count_classes,
    find_head,
    has_small_stem,
    make_small_stem,
    replace_head,
)
from kdcache.models.preprocessing import Preprocessing
from kdcache.models.state_dicts import load_state
from kdcache.models.weights import default_weights, known_preprocessing, load_weights

# files that version 0.1.0 wrote name the old place
_MOVED = {"kdcache.small_resnets": "kdcache.models.small_resnets"}
_POSITIONS = "encoder.pos_embedding"  # of torchvision's transformers


@dataclass(frozen=True)
class Model:
    """A model with what its weights say of themselves.

    Args:
        name: as `build_model` takes it.
        weights: a torchvision weights name, 'none', or the path of a file.
        preprocessing: what the model expects as input.
        pretrained: whether it has weights of a file or of torchvision's; a callable's own do not
            count.
    """

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
    """Build a model and load its weights. The global random generators are left as they were.

    Args:
        name: a torchvision classification model, or 'package.module:callable', which returns an
            nn.Module.
        weights: a torchvision weights name, 'none' (random from `seed`), or a file with a state
            dict; None means IMAGENET1K_V1 for torchvision's models and 'none' for a callable.
        classes: outputs of a new head, which replaces the weights' own if they have another number;
            None keeps the weights' own.
        small_stem: replace the stem by a 3 x 3 stride-1 convolution without max-pool (ResNets).
        image_size, mean, std: given by the user; None takes the weights' own.

    Raises OptionError where the name is unknown or an option does not suit the model, DataError
    where the weights cannot be had or do not fit.
    """
    weights = weights or default_weights(name)
    known = known_preprocessing(name, weights)
    state = load_weights(name, weights)
    overrides = {"image_size": image_size, "mean": mean, "std": std}
    given = {key: value for key, value in overrides.items() if value is not None}
    preprocessing = dataclasses.replace(known, **given)
    with _seeded(seed):
        if ":" in name:
            module = _build_own(name, small_stem)
            _fit_head(module, classes if state is None else _classes_of(state, module))
        else:
            module = _build_torchvision(name, state, classes, preprocessing.image_size)
            if small_stem or (state is not None and has_small_stem(module, state)):
                make_small_stem(module, name)
    if state is not None:
        if ":" not in name:
            state = _fit_positions(module, state, preprocessing.image_size)
        load_state(module, state, f"{name} from {weights}")
        with _seeded(seed):
            _fit_head(module, classes)
    return Model(module, name, weights, preprocessing, pretrained=state is not None)


def count_random_tensors(model: Model, seed: int) -> int:
    """How many tensors of a callable's own model come from random numbers.

    They are those that differ where it is built again with another seed than `seed`.
    """
    state = build_model(model.name, "none", seed=seed + 1).module.state_dict()
    own = model.module.state_dict()
    return sum(key not in state or not torch.equal(own[key], state[key]) for key in own)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers from `seed` within the block; the generators go on as before behind it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _fit_head(module: nn.Module, classes: int | None) -> None:
    """A new head where the model has one, of another number of classes than is wanted."""
    if classes is not None and count_classes(module) not in (None, classes):
        replace_head(module, classes)


def _build_own(name: str, small_stem: bool) -> nn.Module:
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
        found = type(module).__name__
        raise OptionError(f"{name}() to return an nn.Module", found, "correct the callable")
    if small_stem:
        make_small_stem(module, name)
    return module


def _build_torchvision(
    name: str, state: dict[str, Tensor] | None, classes: int | None, image_size: int
) -> nn.Module:
    """torchvision's model with as many classes as `state` has, or `classes` where there is none."""
    if state is not None:
        with torch.device("meta"):
            blank = torchvision.models.get_model(name)
        classes = _classes_of(state, blank)
    arguments: dict[str, Any] = {}
    if classes:
        arguments["num_classes"] = classes
    if name.startswith("vit_"):
        arguments["image_size"] = image_size
    if name in ("inception_v3", "googlenet"):
        # as torchvision does for its weights: they want another normalisation
        arguments["transform_input"] = True
    try:
        return torchvision.models.get_model(name, **arguments)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"an --image-size that {name} takes", f"{image_size} ({error})", "give another one"
        ) from error


def _classes_of(state: dict[str, Tensor], module: nn.Module) -> int | None:
    """How many classes the head in a state dict of such a model has; None where it has none."""
    if count_classes(module) is None:
        return None
    head_name, _ = find_head(module)
    weight = state.get(f"{head_name}.weight")
    return weight.shape[0] if weight is not None and weight.ndim else None


def _fit_positions(
    module: nn.Module, state: dict[str, Tensor], image_size: int
) -> dict[str, Tensor]:
    """`state` with a transformer's position embeddings stretched to another image size."""
    if not isinstance(module, VisionTransformer) or _POSITIONS not in state:
        return state
    try:
        return interpolate_embeddings(image_size, module.patch_size, OrderedDict(state))
    except (RuntimeError, ValueError):
        return state  # it does not fit, which `load_state` will say
