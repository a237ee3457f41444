"""Devices: picking one, the memory that is free there, copies to and from it, a CPU's cores."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kdcache.errors import KdcacheWarning, OptionError

# Where a thread waits for a core for more than a quarter of the time, all threads crawl.
_WATCHED = 5.0  # seconds
_MUCH = 0.25


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called `name`.

    Args:
        name: auto, cpu, cuda, cuda:1, mps. auto is the GPU where there is one.
        local_rank: which of several GPUs `auto` and `cuda` mean; torchrun gives each process its
            own.

    Raises OptionError where torch cannot use it here.
    """
    if name == "auto":
        name = _best_device()
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # torch goes on with a long list
        raise OptionError(
            "a device that torch can use here", f"--device {name} ({reason})", "try --device cpu"
        ) from error
    return device


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory that are still available.

    They are those that no process has, and those that torch holds and does not use.
    """
    unclaimed = torch.cuda.mem_get_info(device)[0]
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return unclaimed + unused


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small CPU tensor to the device. A GPU copies it in its own time, and nobody waits."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_cpu_async(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU.

    Returns a function that waits until the copy is there, and returns it.
    """
    copy = tensor.to("cpu", non_blocking=tensor.device.type == "cuda")
    if tensor.device.type != "cuda":
        return lambda: copy
    arrival = torch.cuda.current_stream(tensor.device).record_event()

    def receive() -> Tensor:
        arrival.synchronize()
        return copy

    return receive


def synchronizer(device: torch.device) -> Callable[[], None]:
    """A function that waits until `device` has done all its work; on a CPU it does nothing."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def gpu_count() -> int:
    """How many GPUs torch sees."""
    return torch.cuda.device_count()


def share_threads(processes: int) -> None:
    """Leave the other processes of a job their part of the CPU's cores.

    Each would otherwise compute with as many threads as there are cores.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


@contextlib.contextmanager
def single_thread() -> Iterator[int]:
    """Compute with one thread in the block; gives how many there were, and are again after it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


class CoreWatch:
    """Notices that other work takes the cores from several threads that compute together.

    They wait for each other in every layer, and spin while they do: where one has no core, the
    others burn theirs. Linux says how long a thread that could run had to wait for one.
    """

    def __init__(self, device: torch.device) -> None:
        self._watches = device.type == "cpu" and torch.get_num_threads() > 1
        self._began, self._waited = time.monotonic(), _waited_for_a_core()

    def poll(self) -> None:
        """Call this after each step; one KdcacheWarning tells of it."""
        elapsed = time.monotonic() - self._began
        if not self._watches or elapsed < _WATCHED:
            return
        waited = _waited_for_a_core() - self._waited
        self._began, self._waited = self._began + elapsed, self._waited + waited
        if waited > _MUCH * elapsed:
            self._watches = False
            warnings.warn(
                f"other work had the cores for {waited / elapsed:.0%} of the last {elapsed:.0f} s;"
                " threads that wait for each other then slow down many times: set OMP_NUM_THREADS=1"
                " or OMP_WAIT_POLICY=passive (docs/performance.md)",
                KdcacheWarning,
                stacklevel=2,
            )


def _waited_for_a_core() -> float:
    """Seconds that this thread could have run and had no core; 0 where the system does not tell."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except (OSError, LookupError):
        return 0.0
