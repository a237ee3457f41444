"""Teachers that phase one must refuse, and one that is slow enough to be interrupted."""

import os
import time

import torch
from tiny_models import tiny_teacher
from torch import Tensor, nn


class _Then(nn.Module):
    """The tiny teacher, and something done to its logits."""

    def __init__(self, change) -> None:
        super().__init__()
        self.teacher, self.change = tiny_teacher(), change

    def forward(self, inputs: Tensor) -> Tensor:
        return self.change(self.teacher(inputs))


def nan_teacher() -> nn.Module:
    def spoil(logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[:, 3] = torch.nan
        return logits

    return _Then(spoil)


def flat_teacher() -> nn.Module:
    return _Then(lambda logits: logits.sum(1))


def slow_teacher() -> nn.Module:
    def wait(logits: Tensor) -> Tensor:
        if "KDCACHE_TEST_FAST" not in os.environ:
            time.sleep(0.02)
        return logits

    return _Then(wait)


def not_a_module() -> int:
    return 7
