"""How a step changes the weights: optimizer, learning rate, and noticing when training diverges."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.engine.resolve import TrainConfig
from kdcache.errors import DivergedError
from kdcache.runtime import to_cpu_async

_MOMENTUM = 0.9
_DIVERGED = 1000.0  # times the first loss, or nat
_TRY = "try a smaller --lr, a longer --warmup or --precision fp32"


def make_optimizer(
    module: nn.Module, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW. Biases and norms have no weight decay."""
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    if config.optimizer == "sgd":
        lr = config.lr
        return torch.optim.SGD(groups, lr=lr, momentum=_MOMENTUM, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


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
