"""TODO models.heads."""

from typing import Any

from torch import Tensor, nn

from kdcache.errors import KdcacheError


def head_of(module: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the last classifier layer: the last Linear, or where there is none the last Conv2d."""
    for kind in (nn.Linear, nn.Conv2d):
        layers = [(name, layer) for name, layer in module.named_modules() if type(layer) is kind]
        if layers:
            return layers[-1]
    raise KdcacheError(
        "a model that ends in a Linear or Conv2d layer", type(module).__name__, "give another model"
    )


def outputs_of(module: nn.Module) -> int | None:
    """Classes of the head; None where the model has no layer that could be one."""
    try:
        head = head_of(module)[1]
    except KdcacheError:
        return None
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def head_parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight `(classes, ...)` and bias `(classes,)` of the head."""
    head = head_of(module)[1]
    return head.weight, head.bias


def replace_head(module: nn.Module, classes: int) -> None:
    """Give the model a new, randomly initialised head of `classes` outputs."""
    name, head = head_of(module)
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
        raise KdcacheError("a ResNet for --small-stem", name, "leave --small-stem away")
    module.conv1 = nn.Conv2d(
        conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None
    )
    module.maxpool = nn.Identity()


def has_small_stem(module: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether a state dict comes from a ResNet with the small stem: its first kernels are 3 x 3, not 7 x 7."""
    own, given = module.state_dict().get("conv1.weight"), state.get("conv1.weight")
    return (
        own is not None
        and given is not None
        and own.shape[2:] == (7, 7)
        and given.shape[2:] == (3, 3)
    )


def class_logits(output: Any) -> Tensor:
    """The logits `(B, C)` in what a model returns (GoogLeNet and Inception wrap them while training)."""
    return output if isinstance(output, Tensor) else output.logits


def student_state_dict(module: nn.Module, classes: int) -> dict[str, Tensor]:
    """The plain state dict of the student alone: the head's first `classes` outputs, on the CPU."""
    weight, bias = head_parameters(module)
    return {
        key: (value[:classes] if value is not None and any(value is own for own in (weight, bias)) else value)
        .detach().cpu().clone()
        for key, value in module.state_dict(keep_vars=True).items()
    }  # fmt: skip
