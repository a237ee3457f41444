"""TODO engine.optimizer."""

import torch
from torch import nn

from kdcache.config import TrainOptions

_MOMENTUM = 0.9


def make_optimizer(
    module: nn.Module, options: TrainOptions, device: torch.device
) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    others = [
        parameter for parameter in module.parameters() if parameter.ndim <= 1
    ]  # biases and norms
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=options.lr, momentum=_MOMENTUM, nesterov=True, fused=fused
        )
    return torch.optim.AdamW(groups, lr=options.lr, fused=fused)
