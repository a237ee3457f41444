"""Rows on their way to the device: they are always tensor[index], and one batch is read ahead."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcache.data import prefetch
from kdcache.data.prefetch import Prefetcher

CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def table(rows: int, views: int) -> Tensor:
    """int64 `(rows, views, 2)`: what stands where says where it stands."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(views)).reshape(rows, views, 2)


@given(st.lists(st.integers(0, 5), max_size=8), st.booleans(), st.integers(0, 99))
def test_batches_are_the_rows_of_the_index_in_its_order(
    sizes: list[int], streamed: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, views = (torch.randint(high, (sum(sizes),), generator=generator) for high in (7, 3))
    found = list(Prefetcher(table(7, 3), CPU, streamed=streamed).batches(sizes, rows, views))
    assert [len(part) for part in found] == sizes
    assert torch.equal(
        torch.cat([*found, torch.zeros(0, 2, dtype=torch.int64)]), torch.stack([rows, views], 1)
    )
    one_axis = list(Prefetcher(table(7, 3), CPU, streamed=streamed).batches(sizes, rows))
    assert all(
        torch.equal(part[:, 0, 0], some)
        for part, some in zip(one_axis, rows.split(sizes), strict=True)
    )


class Watched(torch.Tensor):
    """A tensor that remembers which rows were taken, and in which thread."""

    taken: list[tuple[list[int], str]]

    def __getitem__(self, index: tuple[Tensor, ...]) -> Tensor:
        self.taken.append((index[0].tolist(), threading.current_thread().name))
        return torch.Tensor.__getitem__(self.as_subclass(torch.Tensor), index)


def watched(rows: int) -> Watched:
    tensor = torch.arange(rows).as_subclass(Watched)
    tensor.taken = []
    return tensor


def test_a_streamed_tensor_is_read_one_batch_ahead_in_a_thread() -> None:
    tensor = watched(6)
    batches = Prefetcher(tensor, CPU, streamed=True).batches(
        [2, 2, 2], torch.tensor([5, 4, 3, 2, 1, 0])
    )
    assert not tensor.taken
    assert next(batches).tolist() == [5, 4]
    while len(tensor.taken) < 2:  # the thread is at it
        pass
    assert [rows for rows, _ in tensor.taken] == [[5, 4], [3, 2]]
    assert threading.current_thread().name not in {name for _, name in tensor.taken}
    assert [part.tolist() for part in batches] == [[3, 2], [1, 0]]


def test_an_error_while_reading_ahead_arrives() -> None:
    batches = Prefetcher(torch.arange(3), CPU, streamed=True).batches([1, 1], torch.tensor([0, 7]))
    with pytest.raises(IndexError):
        list(batches)


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    batches = Prefetcher(torch.arange(3), CPU, streamed=True).batches([1, 1, 1], torch.arange(3))
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_what_takes_more_than_half_of_a_gpus_free_memory_does_not_lie_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefetch, "free_memory", lambda device: 64)
    device = torch.device("cuda")
    assert prefetch._fits(torch.zeros(32, dtype=torch.uint8), device)
    assert not prefetch._fits(torch.zeros(33, dtype=torch.uint8), device)
    assert prefetch._fits(torch.zeros(33, dtype=torch.uint8), CPU)


@gpu
@pytest.mark.parametrize("streamed", [False, True])
def test_batches_on_a_gpu(streamed: bool) -> None:
    device = torch.device("cuda")
    rows = torch.randperm(1000)
    parts = list(
        Prefetcher(table(1000, 2), device, streamed=streamed).batches([100] * 10, rows, rows % 2)
    )
    assert all(part.device.type == "cuda" for part in parts)
    assert torch.equal(torch.cat(parts).cpu(), torch.stack([rows, rows % 2], 1))
