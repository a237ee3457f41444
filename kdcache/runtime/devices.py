"""TODO runtime.devices."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdcache.errors import KdcacheError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`; auto is the GPU where there is one, and of several the one of this process."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise KdcacheError(
            "a device that torch can use here", f"--device {name} ({reason})", "try --device cpu"
        ) from error
    return device


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that can still be had: what nobody has, and what torch holds and does not use."""
    return (
        torch.cuda.mem_get_info(device)[0]
        + torch.cuda.memory_reserved(device)
        - torch.cuda.memory_allocated(device)
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU's on the device; a GPU copies it when it comes to it, and nobody waits."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def to_cpu_async(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU. The function that is returned waits until it is there, and returns it."""
    copy = tensor.to("cpu", non_blocking=tensor.device.type == "cuda")
    if tensor.device.type != "cuda":
        return lambda: copy
    arrival = torch.cuda.current_stream(tensor.device).record_event()

    def receive() -> Tensor:
        arrival.synchronize()
        return copy

    return receive


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until `device` has done all that it was given; nothing on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
