"""Where the time of a piece of work goes, by kind of operation, as torch's profiler sees it."""

import re
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "convolutions": r"conv",
    "matrix products": r"mm$|addmm|bmm|matmul|linear|mkldnn",
    "attention": r"attention|softmax",
    "normalisation": r"norm",
    "optimizer": r"_fused_|foreach",
    "pooling": r"pool",
    "copies": r"copy|clone|contiguous|cat$|index|gather|scatter",
    "elementwise": r"gelu|relu|threshold|add|mul|div|sub|where|clamp|floor|abs|exp|fill|zero|sum|mean",
}
"""Kinds of operations and what their names in torch look like, the first that fits counts."""


_OTHER = "everything else"


def kind_of(operation: str) -> str:
    """The kind of an operation by its name in torch: 'aten::addmm' -> 'matrix products'."""
    name = operation.removeprefix("aten::")
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), _OTHER)


def shares(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of each kind in the device's time while `work` runs; on a GPU its idle time is left out. They sum to 1."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        work()
    seconds = dict.fromkeys([*KINDS, _OTHER], 0.0)
    for event in profiler.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if (
            not event.key.startswith("ProfilerStep")
            and event.device_type == torch.autograd.DeviceType.CPU
        ):
            seconds[kind_of(event.key)] += spent
    total = sum(seconds.values())
    return {kind: spent / total for kind, spent in seconds.items()}
