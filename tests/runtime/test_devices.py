"""Picking a device, and copies between it and the CPU."""

from collections.abc import Callable

import pytest
import torch

from kdcache.errors import OptionError
from kdcache.runtime import (
    pick_device,
    share_threads,
    single_thread,
    synchronizer,
    to_cpu_async,
    to_device,
)

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def message(call: Callable[[], object]) -> str:
    with pytest.raises(OptionError) as error:
        call()
    return str(error.value)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    told = message(lambda: pick_device("toaster"))
    assert told.startswith("expected a device that torch can use here; found --device toaster (")
    assert told.endswith("; try --device cpu")


@pytest.mark.parametrize(("processes", "left"), [(1, 6), (2, 3), (4, 1), (7, 1)])
def test_processes_share_the_threads(processes: int, left: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        share_threads(processes)
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)


def test_a_single_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError), single_thread() as threads:
            assert (threads, torch.get_num_threads()) == (3, 1)
            _ = 1 / 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without MPS")
def test_one_that_torch_does_not_have_is_refused_in_a_short_line() -> None:
    told = message(lambda: pick_device("mps"))
    assert told.startswith("expected a device that torch can use here; found --device mps (")
    assert len(told) < 200 and "available for these backends" not in told


def test_what_is_copied_from_a_cpu_is_there() -> None:
    assert to_cpu_async(torch.arange(3))().tolist() == [0, 1, 2]
    assert to_device(torch.arange(3), torch.device("cpu")).tolist() == [0, 1, 2]
    synchronizer(torch.device("cpu"))()


@gpu
def test_what_is_copied_from_a_gpu_is_what_was_there_then() -> None:
    tensor = torch.arange(1 << 20, device="cuda")
    receive = to_cpu_async(tensor)
    tensor.zero_()
    assert torch.equal(receive(), torch.arange(1 << 20))
