"""Picking a device, and copies between it and the CPU."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdcache.errors import KdcacheWarning, OptionError
from kdcache.runtime import (
    CoreWatch,
    devices,
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


class TestCoreWatch:
    """A second a step; of each second, the thread waits for a core for as long as is given."""

    def lines(
        self,
        waits: list[float],
        monkeypatch: pytest.MonkeyPatch,
        threads: int = 2,
        device: str = "cpu",
    ) -> list[str]:
        now, waited = [100.0], [7.0]
        monkeypatch.setattr(devices.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(devices, "_waited_for_a_core", lambda: waited[0])
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        watch = CoreWatch(torch.device(device))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for wait in waits:
                now[0] += 1
                waited[0] += wait
                watch.poll()
        assert all(entry.category is KdcacheWarning for entry in caught)
        return [str(entry.message) for entry in caught]

    def test_it_says_once_that_others_have_the_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (line,) = self.lines([0.7] * 20, monkeypatch)
        assert line.startswith("other work had the cores for 70% of the last 5 s; ")
        assert "set OMP_NUM_THREADS=1 or OMP_WAIT_POLICY=passive" in line

    def test_it_says_so_when_it_begins_in_the_middle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert len(self.lines([0.0] * 100 + [0.3] * 5, monkeypatch)) == 1

    def test_it_is_silent_where_nobody_has_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quiet = [[0.0] * 20, [0.9, 0, 0, 0, 0] * 4, [0.7] * 4, [0.25] * 20]
        assert [self.lines(waits, monkeypatch) for waits in quiet] == [[]] * 4

    @pytest.mark.parametrize(("threads", "device"), [(1, "cpu"), (2, "cuda"), (2, "mps")])
    def test_a_thread_alone_and_a_gpu_are_not_slowed_so(
        self, threads: int, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.lines([0.7] * 20, monkeypatch, threads, device) == []

    @pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="needs Linux")
    def test_the_system_counts_in_nanoseconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = devices._waited_for_a_core()
        assert 0 <= before <= devices._waited_for_a_core() < 1e6
        monkeypatch.setattr(Path, "read_text", lambda path: "12 2500000000 3")
        assert devices._waited_for_a_core() == 2.5

    @pytest.mark.parametrize("text", [None, ""])
    def test_a_system_that_does_not_count(
        self, text: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(path: Path) -> str:
            if text is None:
                raise FileNotFoundError
            return text

        monkeypatch.setattr(Path, "read_text", read)
        assert devices._waited_for_a_core() == 0


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
