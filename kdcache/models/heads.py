"""The two ends of a model: the head, which gives a logit a class, and the stem, at the pixels."""

from typing import Any

from torch import Tensor, nn

from kdcache.errors import OptionError

Head = nn.Linear | nn.Conv2d


def find_heads(module: nn.Module) -> list[tuple[str, Head]]:
    """Name and layer of the head; or of several, where a model takes the mean of their logits.

    A model with a method `get_classifier`, as timm's have, says which they are. Of another it is
    the last Linear, or where there is none the last Conv2d. Empty where the model has no such
    layer, or was made without a head.
    """
    if not says_its_head(module):
        return [] if _has_empty_head(module) else _last_layer(module)
    said: Any = module.get_classifier()  # pyright: ignore[reportCallIssue]
    names = {layer: name for name, layer in module.named_modules()}
    heads: list[tuple[str, Head]] = []
    for part in said if isinstance(said, (tuple, list, nn.ModuleList)) else (said,):
        inside = [("", part)] if isinstance(part, Head) else _last_layer(part)
        heads += [(names[layer], layer) for _, layer in inside]
    return heads


def _last_layer(module: nn.Module) -> list[tuple[str, Head]]:
    for kind in (nn.Linear, nn.Conv2d):
        # not isinstance: attention has a subclass of Linear inside that is no head
        layers = [(name, layer) for name, layer in module.named_modules() if type(layer) is kind]
        if layers:
            return layers[-1:]
    return []


def says_its_head(module: nn.Module) -> bool:
    """Whether a model has timm's two methods, which return its head and replace it."""
    return hasattr(module, "get_classifier") and hasattr(module, "reset_classifier")


def lacks_head(module: nn.Module) -> bool:
    """Whether a model says that it was made without a classifier, and so returns features."""
    return _has_empty_head(module) or (says_its_head(module) and not find_heads(module))


def _has_empty_head(module: nn.Module) -> bool:
    """Whether an Identity is where torchvision's models have their head, as people put it there."""
    named = dict(module.named_children())
    heads = [named[name] for name in ("fc", "classifier", "head", "heads") if name in named]
    return bool(heads) and all(isinstance(head, nn.Identity) for head in heads)


def remove_head(module: nn.Module) -> None:
    """Have the model return what its head takes in: the penultimate features `(B, D)`."""
    for name, _ in find_heads(module):
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, nn.Identity())


def takes_head(module: nn.Module) -> bool:
    """Whether the model has a head, or can be given one."""
    return says_its_head(module) or bool(find_heads(module))


def count_classes(module: nn.Module) -> int | None:
    """How many classes the head has; None where the model has no layer that could be one."""
    for _, head in find_heads(module):
        return head.out_features if isinstance(head, nn.Linear) else head.out_channels
    return None


def head_parameters(module: nn.Module) -> list[Tensor]:
    """Weight `(classes, ...)` and bias `(classes,)` of each head, as far as they are there."""
    both = [(head.weight, head.bias) for _, head in find_heads(module)]
    return [value for pair in both for value in pair if value is not None]


def replace_head(module: nn.Module, classes: int) -> None:
    """Give the model a new, randomly initialised head of `classes` outputs.

    Raises OptionError where it has none that could be replaced.
    """
    if says_its_head(module):
        module.reset_classifier(classes)  # pyright: ignore[reportCallIssue]
        return
    heads = find_heads(module)
    if not heads:
        raise OptionError(
            "a model that ends in a Linear or Conv2d layer",
            type(module).__name__,
            "give another model",
        )
    name, head = heads[0]
    has_bias = head.bias is not None
    if isinstance(head, nn.Linear):
        new: Head = nn.Linear(head.in_features, classes, bias=has_bias)
    else:
        kernel_size = (head.kernel_size[0], head.kernel_size[1])
        new = nn.Conv2d(head.in_channels, classes, kernel_size, bias=has_bias)
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, new)


def make_small_stem(module: nn.Module, name: str) -> None:
    """Give a ResNet a 3 x 3 stride-1 first convolution and no max-pool, as for 32-pixel images.

    Raises OptionError where the model, called `name`, is not such a ResNet.
    """
    conv = getattr(module, "conv1", None)
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (7, 7):
        raise OptionError("a ResNet for --small-stem", name, "omit --small-stem")
    has_bias = conv.bias is not None
    module.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=has_bias)
    module.maxpool = nn.Identity()


def has_small_stem(module: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether `state` is of `module` with the small stem: kernels of 3 x 3, where it has 7 x 7."""
    own = module.state_dict().get("conv1.weight")
    given = state.get("conv1.weight")
    if own is None or given is None:
        return False
    return own.shape[2:] == (7, 7) and given.shape[2:] == (3, 3)


def class_logits(output: Any) -> Tensor:
    """The logits `(B, C)` in a model's output (GoogLeNet and Inception wrap them in training).

    Raises OptionError where there are none.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    expected = "a model that returns logits (B, classes), or an object with them as .logits"
    raise OptionError(expected, type(output).__name__, "let the model return its logits alone")


def student_state_dict(module: nn.Module, classes: int) -> dict[str, Tensor]:
    """The state dict of the student alone, on the CPU.

    In training the head may have the teacher's classes behind the student's; here it has only its
    first `classes` outputs.
    """
    head = head_parameters(module)
    state = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if any(value is parameter for parameter in head):
            value = value[:classes]
        state[key] = value.detach().cpu().clone()
    return state
