"""Builds teachers and students: torchvision's models or a callable of one's own, and their weights."""

import dataclasses
import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from kdcache.errors import InputError

DEFAULT_WEIGHTS = "IMAGENET1K_V1"
DEFAULT_IMAGE_SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DESCRIPTION_FILE = "student.json"  # beside a student.pt: what one must know to use it


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects as input. `class_names` is empty where nobody knows them."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()


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

    Raises InputError where the name is unknown or the weights cannot be had or do not fit.
    """
    weights = weights or ("none" if ":" in name else DEFAULT_WEIGHTS)
    state, known = load_weights(name, weights)
    overrides = {"image_size": image_size, "mean": mean, "std": std}
    preprocessing = dataclasses.replace(known, **{key: value for key, value in overrides.items() if value is not None})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = _construct(name, state, classes, small_stem, preprocessing.image_size)
    if state is not None:
        _load_state(module, state, f"{name} from {weights}")
        if classes is not None and _outputs(module) not in (None, classes):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                replace_head(module, classes)
    return Model(module, name, weights, preprocessing, pretrained=state is not None)


def load_weights(name: str, weights: str) -> tuple[dict[str, Tensor] | None, Preprocessing]:
    """The state dict (None for random weights) and what is known of the model's input and classes."""
    default = Preprocessing(DEFAULT_IMAGE_SIZE, IMAGENET_MEAN, IMAGENET_STD)
    if ":" not in name and name not in torchvision.models.list_models(module=torchvision.models):
        raise InputError(
            "a torchvision classification model or package.module:callable", name, "see torchvision.models.list_models()"
        )
    if weights == "none":
        return None, default
    if Path(weights).is_file():
        return read_state_dict(Path(weights)), _described(Path(weights).parent, default)
    if ":" in name:
        raise InputError(f"none or a file as weights of {name}", weights, "give the path of a state dict")
    return _torchvision_weights(name, weights)


def _torchvision_weights(name: str, weights: str) -> tuple[dict[str, Tensor], Preprocessing]:
    choices = torchvision.models.get_model_weights(name)
    if weights not in choices.__members__:
        raise InputError(
            f"weights of {name}: {', '.join(choices.__members__)}, none or a file", weights, "correct the name or path"
        )
    entry = choices[weights]
    transforms = entry.transforms()
    preprocessing = Preprocessing(
        transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std), tuple(entry.meta["categories"])
    )
    try:
        return entry.get_state_dict(progress=True, check_hash=True), preprocessing
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"a network to download {name} {weights}",
            f"none ({error})",
            f"download {entry.url} elsewhere and give the file's path as weights",
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without executing anything that a pickle could hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a damaged file raises nearly anything
        raise InputError("a state dict saved by torch.save", f"{path}, which is not one", "give another file") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise InputError("a state dict saved by torch.save", f"{path} with something else", "give another file")
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _described(folder: Path, default: Preprocessing) -> Preprocessing:
    """What a run of ours wrote beside its student.pt; the default where there is nothing."""
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return default
    try:
        entry = json.loads(path.read_text())
        return Preprocessing(entry["image_size"], tuple(entry["mean"]), tuple(entry["std"]), tuple(entry["class_names"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} as train_student.py writes it", f"{error!r}", "repair or remove it") from error


def describe(preprocessing: Preprocessing, **more: Any) -> str:
    """The text of a student.json."""
    return json.dumps(dataclasses.asdict(preprocessing) | more, indent=1)


def _construct(name: str, state: dict[str, Tensor] | None, classes: int | None, small_stem: bool, image_size: int) -> nn.Module:
    """An uninitialised-by-weights model whose head and stem fit `state`, or the wishes where there is none."""
    if ":" in name:
        module = _call(name)
        if small_stem:
            make_small_stem(module, name)
        if state is None and classes is not None and _outputs(module) not in (None, classes):
            replace_head(module, classes)
        return module
    arguments: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in ("inception_v3", "googlenet"):
        arguments["transform_input"] = True  # as torchvision does for its weights: they want another normalisation
    if state is not None:
        with torch.device("meta"):
            blank = torchvision.models.get_model(name)
        head_name = _head(blank)[0] + ".weight"
        classes = state[head_name].shape[0] if head_name in state else None
    try:
        module = torchvision.models.get_model(name, **arguments, **({"num_classes": classes} if classes else {}))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"an --image-size that {name} takes", f"{image_size} ({error})", "give another one") from error
    if small_stem or (state is not None and _has_small_stem(module, state)):
        make_small_stem(module, name)
    if state is not None and "image_size" in arguments and "encoder.pos_embedding" in state:
        state |= interpolate_embeddings(image_size, module.patch_size, dict(state))
    return module


def _call(name: str) -> nn.Module:
    """What 'package.module:callable' returns."""
    package, _, attribute = name.partition(":")
    try:
        module = getattr(importlib.import_module(package), attribute)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError("an importable package.module:callable", f"{name} ({error})", "check PYTHONPATH") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{name}() to return an nn.Module", type(module).__name__, "correct the callable")
    return module


def _load_state(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
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
        raise InputError(f"weights that fit {what}", ", ".join(sorted(faults)[:4]) + more, "give weights of this model")
    fitting = {key: value for key, value in state.items() if own[key].shape == value.shape}
    module.load_state_dict(fitting, strict=False)


def _head(module: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the last classifier layer: the last Linear, or where there is none the last Conv2d."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [(name, layer) for name, layer in module.named_modules() if type(layer) is kind]
        if layers:
            return layers[-1]
    raise InputError("a model that ends in a Linear or Conv2d layer", type(module).__name__, "give another model")


def _outputs(module: nn.Module) -> int | None:
    """Classes of the head; None where the model has no layer that could be one."""
    try:
        head = _head(module)[1]
    except InputError:
        return None
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def head_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight `(classes, ...)` and bias `(classes,)` of the head."""
    head = _head(module)[1]
    return head.weight, head.bias


def replace_head(module: nn.Module, classes: int) -> None:
    """Give the model a new, randomly initialised head of `classes` outputs."""
    name, head = _head(module)
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, classes, bias=head.bias is not None)
    else:
        new = nn.Conv2d(head.in_channels, classes, head.kernel_size, bias=head.bias is not None)
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)


def make_small_stem(module: nn.Module, name: str) -> None:
    """A 3 x 3 stride-1 first convolution and no max-pool, as is usual for 32-pixel images."""
    conv = getattr(module, "conv1", None)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (7, 7):
        raise InputError("a ResNet for --small-stem", name, "leave --small-stem away")
    module.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
    module.maxpool = nn.Identity()


def _has_small_stem(module: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether a state dict comes from a ResNet with the small stem: its first kernels are 3 x 3, not 7 x 7."""
    own, given = module.state_dict().get("conv1.weight"), state.get("conv1.weight")
    return own is not None and given is not None and own.shape[2:] == (7, 7) and given.shape[2:] == (3, 3)


def _is_new_stem(key: str, own: dict[str, Tensor]) -> bool:
    """The small stem's kernels do not come from 7 x 7 weights: they start afresh."""
    return key == "conv1.weight" and own[key].shape[2:] == (3, 3)


def class_logits(output: Any) -> Tensor:
    """The logits `(B, C)` in what a model returns (GoogLeNet and Inception wrap them while training)."""
    return output if isinstance(output, Tensor) else output.logits


def state_digest(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of a state dict."""
    sha = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        sha.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`; auto is the GPU where there is one, and of several the one of this process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("a device that torch can use here", f"--device {name} ({reason})", "try --device cpu") from error
    return device
