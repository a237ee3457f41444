"""timm's models: `timm/NAME`, `timm/hf-hub:ORG/NAME` and `timm/local-dir:PATH`.

The only module that imports timm, which is of the extra `timm`, and only where such a model is
named.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from kdcache.config import INTERPOLATIONS
from kdcache.errors import DataError, OptionError
from kdcache.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PREFIX = "timm/"
PRETRAINED = "pretrained"
"""Names the weights that timm has for a model."""


def timm_preprocessing(name: str, weights: str) -> Preprocessing:
    """What timm knows of a model's input; and of its classes, where it has timm's own weights.

    Raises OptionError where timm is not installed, or knows no such model.
    """
    known = _config(name)
    _, height, width = known["input_size"]
    interpolation = known.get("interpolation") or "bicubic"
    if height != width or interpolation not in INTERPOLATIONS:
        expected = f"a model with a square input, resized {' or '.join(INTERPOLATIONS)}"
        found = f"{name} with {height} x {width} pixels, {interpolation}"
        raise OptionError(expected, found, "give another model")
    mean, std = (known.get(key) or own for key, own in _NORMALISATION.items())
    names = _class_names(name, known) if weights == PRETRAINED else ()
    return Preprocessing(height, tuple(mean), tuple(std), names, interpolation)


def build_timm(
    name: str,
    weights: str,
    state: Mapping[str, Tensor] | None,
    classes: int | None,
    image_size: int,
) -> nn.Module:
    """timm's model, for an input of `image_size` pixels.

    Args:
        weights: 'none' or 'pretrained', whose classes are kept, or what `state` was read from.
        state: loaded as timm loads what it has downloaded; its classes are kept, too.
        classes: of a model with random weights; None takes as many as timm's weights have.

    Raises OptionError where the model does not take that input, DataError where the weights cannot
    be had, RuntimeError where `state` does not fit.
    """
    known = _config(name)
    arguments: dict[str, Any] = {}
    if known.get("fixed_input_size") and image_size != known["input_size"][1]:
        arguments["img_size"] = image_size
    if state is not None:
        classes = classes_of(name, state)
        given = {"state_dict": dict(state), "num_classes": classes, "source": ""}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": given}
    elif weights == PRETRAINED:
        arguments["pretrained"] = True
        _refuse_without_weights(name, known)
    if classes is not None:
        arguments["num_classes"] = classes
    try:
        return _timm().create_model(name.removeprefix(PREFIX), **arguments)
    except Exception as error:  # the hub's client raises errors of half a dozen packages
        reason = " ".join(str(error).split())[:200]
        if state is not None:
            raise RuntimeError(reason) from error
        if weights == PRETRAINED:
            raise DataError(
                f"a network to download the weights of {name}, for {image_size} pixels",
                f"none ({reason})",
                "download them elsewhere and give the file's path as weights",
            ) from error
        raise OptionError(
            f"an --image-size that {name} takes", f"{image_size} ({reason})", "give another one"
        ) from error


def classes_of(name: str, state: Mapping[str, Tensor]) -> int:
    """How many classes the head in a state dict has; timm's own number where it has none."""
    known = _config(name)
    heads = known.get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        weight = state.get(f"{head}.weight")
        if weight is not None and weight.ndim:
            return weight.shape[0]
    return known["num_classes"]


_NORMALISATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise OptionError(
            "the package timm for a model timm/NAME",
            f"none ({error})",
            "pip install 'kdcache[timm]'",
        ) from error


def _config(name: str) -> dict[str, Any]:
    """timm's record of a model and its weights; of a model on the hub, that is downloaded."""
    timm = _timm()
    known = None
    try:
        source, model = timm.models.parse_model_name(name.removeprefix(PREFIX))
        if source == "hf-hub":
            known, _, _ = timm.models.load_model_config_from_hf(model)
        elif source == "local-dir":
            hub = importlib.import_module("timm.models._hub")
            known, _, _ = hub.load_model_config_from_path(model)
        elif found := timm.models.get_pretrained_cfg(model):
            known = found.to_dict()
    except Exception as error:  # as above, and whatever a file of a stranger leads to
        raise _unknown(name, f" ({' '.join(str(error).split())[:200]})") from error
    if known is None or not _is_sound(known):
        raise _unknown(name, "")
    return known


def _is_sound(known: Mapping[str, Any]) -> bool:
    """Whether a record, which may be a stranger's, has the numbers that are read here."""

    def has_three(key: str, *kinds: type, positive: bool = True) -> bool:
        values = known.get(key)
        if not isinstance(values, (list, tuple)) or len(values) != 3:
            return False
        return all(type(value) in kinds and (value > 0 or not positive) for value in values)

    classes = known.get("num_classes")
    return (
        has_three("input_size", int)
        and (not known.get("mean") or has_three("mean", int, float, positive=False))
        and (not known.get("std") or has_three("std", int, float))
        and type(classes) is int
        and classes >= 0
    )


def _unknown(name: str, reason: str) -> OptionError:
    expected = "timm/NAME, timm/hf-hub:ORG/NAME or timm/local-dir:PATH, which timm has"
    return OptionError(expected, f"{name}{reason}", "see timm.list_models(pretrained=True)")


def _refuse_without_weights(name: str, known: Mapping[str, Any]) -> None:
    if not any(known.get(key) for key in ("url", "file", "hf_hub_id")):
        expected = f"weights of {name}, of which timm has none"
        raise OptionError(expected, "none given", "give a file, or none for random ones")


def _class_names(name: str, known: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that the weights' own record has, or ImageNet's for weights that timm lists."""
    names = known.get("label_names") or ()
    described = known.get("label_descriptions") or {}
    if isinstance(described, Mapping):
        names = [described.get(one, one) for one in names]
    if not names and ":" not in name:
        data = importlib.import_module("timm.data")
        subset = data.infer_imagenet_subset(dict(known))
        names = data.ImageNetInfo(subset).label_descriptions() if subset else ()
    # timm tells ImageNet's subsets apart by their number of classes
    return tuple(map(str, names)) if len(names) == known["num_classes"] else ()
