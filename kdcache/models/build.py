"""Builds a model by name, torchvision's, timm's or a callable, and loads its weights."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
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
    find_heads,
    has_small_stem,
    make_small_stem,
    remove_head,
    replace_head,
    takes_head,
)
from kdcache.models.preprocessing import Preprocessing
from kdcache.models.state_dicts import load_state
from kdcache.models.timm_models import build_timm, classes_of
from kdcache.models.weights import (
    default_weights,
    device_to_look_at,
    known_preprocessing,
    load_weights,
    source_of,
)

# files that version 0.1.0 wrote name the old place
_MOVED = {"kdcache.small_resnets": "kdcache.models.small_resnets"}
_POSITIONS = "encoder.pos_embedding"  # of torchvision's transformers


@dataclass(frozen=True)
class Model:
    """A model with what its weights say of themselves.

    Args:
        name: as `build_model` takes it.
        weights: a torchvision weights name, 'pretrained' (timm's), 'none', or the path of a file.
        preprocessing: what the model expects as input.
        pretrained: whether its weights were learned; a callable's own count where it says so.
        output: of `OUTPUTS`, what it returns.
    """

    module: nn.Module
    name: str
    weights: str
    preprocessing: Preprocessing
    pretrained: bool
    output: str = "logits"


@dataclass(frozen=True)
class _Wanted:
    """What is to be built; `state` is what was read from a file that `weights` names."""

    name: str
    weights: str
    state: dict[str, Tensor] | None
    classes: int | None
    image_size: int
    small_stem: bool


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
    interpolation: str | None = None,
    output: str = "logits",
) -> Model:
    """Build a model and load its weights. The global random generators are left as they were.

    Args:
        name: a torchvision classification model, 'timm/NAME', or 'package.module:callable', which
            returns an nn.Module.
        weights: a torchvision weights name, 'pretrained' (timm's), 'none' (random from `seed`), or
            a file with a state dict; None means IMAGENET1K_V1 for torchvision's models,
            'pretrained' for timm's, and 'none' for a callable.
        classes: outputs of a new head, which replaces the weights' own if they have another number;
            None keeps the weights' own.
        small_stem: replace the stem by a 3 x 3 stride-1 convolution without max-pool (ResNets).
        image_size, mean, std, interpolation: as given; None takes the weights' own.
        output: of `OUTPUTS`; a model that is to return features loses its head.

    Raises OptionError where the name is unknown or an option does not suit the model, DataError
    where the weights cannot be had or do not fit.
    """
    weights = weights or default_weights(name)
    known = known_preprocessing(name, weights)
    state = load_weights(name, weights)
    overrides = {
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
    }
    given = {key: value for key, value in overrides.items() if value is not None}
    preprocessing = dataclasses.replace(known, **given)
    wanted = _Wanted(name, weights, state, classes, preprocessing.image_size, small_stem)
    with _seeded(seed):
        module = _MAKERS[source_of(name)](wanted)
    with _seeded(seed):
        _fit_head(module, classes)
    if output == "features":
        remove_head(module)
    pretrained = begins_pretrained(name, weights)
    return Model(module, name, weights, preprocessing, pretrained, output)


def begins_pretrained(name: str, weights: str) -> bool:
    """Whether a model's weights were learned: those with a name or of a file were.

    A callable says so of those that it returns with an attribute: `make_model.pretrained = True`.
    """
    if weights != "none":
        return True
    return source_of(name) == "callable" and getattr(_own(name), "pretrained", False) is True


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
    """A new head where the model can have one and has another number of classes than wanted."""
    if classes is not None and takes_head(module) and count_classes(module) != classes:
        replace_head(module, classes)


def _own(name: str) -> Callable[[], Any]:
    """The callable that 'package.module:callable' names."""
    package, _, attribute = name.partition(":")
    make = import_object(f"{_MOVED.get(package, package)}:{attribute}")
    if not callable(make):
        raise OptionError(f"{name} to be callable", type(make).__name__, "correct the name")
    return make


def _make_own(wanted: _Wanted) -> nn.Module:
    """What 'package.module:callable' returns, with the weights or with a head of `classes`."""
    name, state = wanted.name, wanted.state
    make = _own(name)
    try:
        module = make()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        expected = f"{name} to return a model when it is called without arguments"
        raise OptionError(expected, f"{error}", "correct the callable") from error
    if not isinstance(module, nn.Module):
        found = type(module).__name__
        raise OptionError(f"{name}() to return an nn.Module", found, "correct the callable")
    if wanted.small_stem:
        make_small_stem(module, name)
    _fit_head(module, wanted.classes if state is None else _classes_of(state, module))
    _load(module, state, wanted)
    return module


def _make_timm(wanted: _Wanted) -> nn.Module:
    """timm's model with its weights and their classes, or with random ones and `classes`."""
    name, weights, state, size = wanted.name, wanted.weights, wanted.state, wanted.image_size
    try:
        classes = wanted.classes if weights == "none" else None
        module = build_timm(name, weights, state, classes, size)
    except RuntimeError:
        if state is None:
            raise
        # of a student with a small stem, or of another model, of which this says what does not fit
        module = build_timm(name, "none", None, classes_of(name, state), size)
        if has_small_stem(module, state):
            make_small_stem(module, name)
        _load(module, state, wanted)
    else:
        if wanted.small_stem:
            make_small_stem(module, name)
    return module


def _make_torchvision(wanted: _Wanted) -> nn.Module:
    """torchvision's model with the weights and their classes, or with random ones."""
    state, size = wanted.state, wanted.image_size
    module = _blank_torchvision(wanted.name, state, wanted.classes, size)
    if wanted.small_stem or (state is not None and has_small_stem(module, state)):
        make_small_stem(module, wanted.name)
    if state is not None:
        state = _fit_positions(module, state, size)
    _load(module, state, wanted)
    return module


_MAKERS = {"torchvision": _make_torchvision, "timm": _make_timm, "callable": _make_own}


def _load(module: nn.Module, state: dict[str, Tensor] | None, wanted: _Wanted) -> None:
    if state is not None:
        load_state(module, state, f"{wanted.name} from {wanted.weights}")


def _blank_torchvision(
    name: str, state: dict[str, Tensor] | None, classes: int | None, image_size: int
) -> nn.Module:
    """torchvision's model with as many classes as `state` has, or `classes` where there is none."""
    if state is not None:
        with torch.device(device_to_look_at(name)), torch.random.fork_rng():
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
    for name, _ in find_heads(module):
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim:
            return weight.shape[0]
    return None


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
