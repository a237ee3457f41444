"""Notices a training that explodes, without waiting for the device."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.runtime import to_cpu_async

_EXPLODED = 1000.0  # times the first loss, or nat


class DivergenceMonitor:
    """Watches for a loss that is infinite, not a number, or absurdly large.

    The largest loss stays on the device until a look; a look only sends for it, and what it finds is read by the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self._largest = torch.zeros((), device=device)
        self._first: Tensor | None = None
        self._read: Callable[[], None] = lambda: None

    def update(self, loss: Tensor) -> None:
        """Take a step's loss, a scalar on the device, into account."""
        self._largest = torch.maximum(self._largest, loss.detach().nan_to_num(nan=math.inf))
        if self._first is None:
            self._first = loss.detach()

    def poll(self, when: str) -> None:
        """Raise KdcacheError where something was wrong by the look before this one.

        Args:
            when: in words, for the message about what was noted since then.
        """
        last, arriving = self._read, to_cpu_async(torch.stack([self._largest, self._first]))
        self._largest = torch.zeros_like(self._largest)

        def read() -> None:
            largest, first = arriving().tolist()
            if not largest <= _EXPLODED * max(first, 1.0):
                raise KdcacheError(
                    "a finite loss that does not explode",
                    f"{largest:.3g} by {when}",
                    "try a smaller --lr, a longer --warmup or --precision fp32",
                )

        self._read = read
        last()

    def flush(self) -> None:
        """Raise KdcacheError where something was wrong by the last look."""
        self._read()
