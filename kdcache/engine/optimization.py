"""How a step changes the weights: optimizer, learning rate, and noticing when training diverges."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.engine.resolve import TrainConfig
from kdcache.errors import DivergedError, OptionError
from kdcache.models import head_parameters
from kdcache.runtime import to_cpu_async

_MOMENTUM = 0.9
_LAYER = 12  # tensors: as many as a transformer's block has
_DIVERGED = 1000.0  # times the first loss, or nat
_TRY = "try a smaller --lr, a longer --warmup or --precision fp32"


def make_optimizer(
    module: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW. Biases and norms have no weight decay."""
    groups: list[dict[str, Any]] = []
    for scale, layer in _layers(module, config.layer_decay):
        scaled = {} if scale == 1 else {"lr_scale": scale}
        decayed = [parameter for parameter in layer if parameter.ndim > 1]
        others = [parameter for parameter in layer if parameter.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": config.weight_decay, **scaled})
        groups.append({"params": others, "weight_decay": 0.0, **scaled})
    fused = device.type == "cuda"
    if config.optimizer == "sgd":
        lr = config.lr
        return torch.optim.SGD(groups, lr=lr, momentum=_MOMENTUM, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def _layers(module: nn.Module, decay: float) -> Iterator[tuple[float, list[nn.Parameter]]]:
    """(its learning rate, as a fraction of the head's; its parameters) for each layer.

    Layer-wise decay as in Clark, Luong, Le and Manning, "ELECTRA", 2020, for any model: the head is
    a layer, and so are each 12 tensors in front of it, in the order in which the model has them.
    """
    if decay in (0, 1):  # with 0, none but the head has a gradient
        yield 1, list(module.parameters())
        return
    head = set(head_parameters(module))
    yield 1, [parameter for parameter in module.parameters() if parameter in head]
    body = [parameter for parameter in module.parameters() if parameter not in head]
    for number, stop in enumerate(range(len(body), 0, -_LAYER), start=1):
        yield decay**number, body[max(0, stop - _LAYER) : stop]


def freeze_body(module: nn.Module) -> None:
    """Let nothing but the head be trained.

    Raises OptionError where the model has none.
    """
    head = set(head_parameters(module))
    if not head:
        expected = "a student with a classifier for --layer-decay 0"
        raise OptionError(expected, type(module).__name__, "give another --layer-decay")
    for parameter in module.parameters():
        parameter.requires_grad_(parameter in head)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The head's, of which every other layer has its own fraction."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the state of another one of the same kind and parameters.

    Raises ValueError, or what torch raises, where it is not such a state. torch itself looks at
    little more than the number of parameters.
    """
    settings = [group.keys() for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if [group.keys() for group in optimizer.param_groups] != settings:
        raise ValueError("the settings of another optimizer")
    for parameter, kept in optimizer.state.items():
        for value in kept.values():
            # a mean for each weight, or one number: the count of the steps
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, ()):
                raise ValueError("the state of another optimizer")


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up over the first fraction of the `steps`, then a cosine to 0.

    `step` counts from 0.
    """
    rising = config.warmup * steps
    if step < rising:
        return config.lr * (step + 1) / math.ceil(rising)
    return config.lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def distillation_weight(config: TrainConfig, epoch: int) -> float:
    """Of the distillation term in epoch 0, 1, ...: it may rise over the first ones."""
    rising = config.distill_warmup * config.epochs
    return config.distill_weight * min(1.0, (epoch + 1) / max(1.0, rising))


def check_validation_loss(loss: float, epoch: int) -> None:
    """Raise DivergedError where a validation loss in nats is not finite or absurdly large.

    Training can look well where a norm's running statistics are not.
    """
    if not loss <= _DIVERGED:
        raise DivergedError(
            "a finite validation loss that does not explode",
            f"{loss:.3g} after epoch {epoch}",
            _TRY,
        )


class DivergenceMonitor:
    """Watches for a loss that is infinite, not a number, or absurdly large.

    The largest loss stays on the device. A poll only begins to copy it; the next poll reads what
    arrived.
    """

    def __init__(self, device: torch.device) -> None:
        self._largest = torch.zeros((), device=device)
        self._first: Tensor | None = None
        self._check: Callable[[], None] = lambda: None

    def update(self, loss: Tensor) -> None:
        """Take a step's loss, a scalar on the device, into account."""
        self._largest = torch.maximum(self._largest, loss.detach().nan_to_num(nan=math.inf))
        if self._first is None:
            self._first = loss.detach()

    def poll(self, when: str) -> None:
        """Raise DivergedError where something was wrong by the poll before this one.

        Args:
            when: in words, for the message about the steps since then.
        """
        first = self._largest if self._first is None else self._first
        arriving = to_cpu_async(torch.stack([self._largest, first]))
        self._largest = torch.zeros_like(self._largest)

        def check() -> None:
            largest, first = arriving().tolist()
            if not largest <= _DIVERGED * max(first, 1.0):
                raise DivergedError(
                    "a finite loss that does not explode",
                    f"{largest:.3g} by {when}",
                    _TRY,
                )

        previous, self._check = self._check, check
        previous()

    def flush(self) -> None:
        """Raise DivergedError where something was wrong by the last poll."""
        self._check()
