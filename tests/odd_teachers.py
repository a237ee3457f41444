"""Teachers that phase one must refuse, and one that is slow enough to be interrupted."""

import os
import signal
import time
from collections.abc import Callable

import torch
from tiny_models import tiny_teacher
from torch import Tensor, nn


class _Then(nn.Module):
    """The tiny teacher, and something done to its logits."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
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


def mortal_teacher() -> nn.Module:
    """Under torchrun the second process is killed at its first block, the second call after the
    one that counts classes.
    """
    calls = []

    def die(logits: Tensor) -> Tensor:
        calls.extend(
            [1] * (logits.device.type != "meta")
        )  # where its operations are counted it has no data
        if os.environ.get("RANK") == "1" and len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return logits

    return _Then(die)


def not_a_module() -> int:
    return 7
