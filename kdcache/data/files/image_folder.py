"""Many image files, brought to one size: decoded into memory, or when they are looked at."""

import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from kdcache.data.files.decoding import decode, upright_shape
from kdcache.errors import KdcacheWarning

Result = TypeVar("Result")

DEFAULT_STORE_SIZE = 256
_NEARLY_ALL = 0.9  # of the images, whose one size all of them get
_CHUNK = 64  # files that a thread takes at a time: enough that handing them out costs nothing
_FEW = 4  # the same, where there are no more than a batch


def common_shape(paths: Sequence[Path], store_size: int | None) -> tuple[int, int]:
    """Height and width in pixels to which all images are brought, by the headers of the files.

    It is the size that all have. Where they differ, it is a square of `store_size`; without one the
    size of at least nine in ten images, else a square of 256, and a KdcacheWarning says so.

    Raises DataError where a file cannot be read.
    """
    shapes = list(
        _in_threads(lambda row: upright_shape(paths[row]), len(paths), _CHUNK, "comparing sizes")
    )
    shape, count = Counter(shapes).most_common(1)[0]
    if count == len(paths):
        return shape
    if store_size is not None:
        return store_size, store_size
    nearly_all = count >= _NEARLY_ALL * len(paths)
    stored = shape if nearly_all else (DEFAULT_STORE_SIZE, DEFAULT_STORE_SIZE)
    odd = next(row for row, one in enumerate(shapes) if one != shape)
    warnings.warn(
        f"{len(paths) - count:,} of {len(paths):,} images are not of {_size(shape)} pixels, as the"
        f" most are, the first {paths[odd]} ({_size(shapes[odd])}):"
        f" {'these' if nearly_all else 'all'} are resized and cropped to {_size(stored)};"
        " --store-size N brings all to squares of N",
        KdcacheWarning,
        stacklevel=2,
    )
    return stored


def _size(shape: tuple[int, int]) -> str:
    """As people say it, width first."""
    return f"{shape[1]} x {shape[0]}"


class LazyImages:
    """Image files as a tensor uint8 `(N, 3, H, W)` that is never in memory as a whole.

    Indexed by a row, a slice or rows int64 `(R,)`, as a tensor is, it decodes these files in
    threads and gives a tensor. Nothing of it is kept.

    Args:
        paths: N files. Images are taken as they are where they have `size`, else resized and
            cropped to it.
        size: height and width in pixels.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self._paths, self._size = paths, size
        self._rows = torch.arange(len(paths))

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self._paths), 3, *self._size))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int | slice | Tensor | tuple[Tensor, ...]) -> Tensor:
        """Raises DataError where a file cannot be read."""
        rows = self._rows[index]
        # few at a time, so that all threads have some of a batch
        images = self._decode(rows.flatten().tolist(), _FEW)
        return torch.from_numpy(images.reshape(*rows.shape, *images.shape[1:]))

    def load(self) -> NDArray[np.uint8]:
        """All of them, with a progress bar. Raises DataError where a file cannot be read."""
        return self._decode(range(len(self)), _CHUNK, "reading images")

    def select(self, rows: NDArray[np.int64]) -> "LazyImages":
        """Only these rows, still in their files."""
        return LazyImages([self._paths[row] for row in rows], self._size)

    def split(self, lengths: Sequence[int]) -> list["LazyImages"]:
        """Parts of these lengths, one after the other, still in their files."""
        ends = list(accumulate(lengths))
        pairs = zip(ends, lengths, strict=True)
        return [LazyImages(self._paths[end - length : end], self._size) for end, length in pairs]

    def _decode(self, rows: Sequence[int], chunk: int, bar: str | None = None) -> NDArray[np.uint8]:
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def put(place: int) -> None:
            images[place] = decode(self._paths[rows[place]], self._size)

        for _ in _in_threads(put, len(rows), chunk, bar):
            pass
        return images


Images = Tensor | LazyImages
"""uint8 `(N, 3, H, W)`, in memory or in files."""


def _in_threads(
    function: Callable[[int], Result], count: int, chunk: int, bar: str | None = None
) -> Generator[Result, None, None]:
    """What `function` returns for 0, 1, ..., count - 1, in this order.

    What has not begun when the generator is closed is not done at all.

    Args:
        chunk: calls that a thread makes at a time.
        bar: what to call a progress bar; None shows none.
    """

    def run(start: int) -> list[Result]:
        return [function(row) for row in range(start, min(start + chunk, count))]

    shown = tqdm(desc=bar, total=count, unit="image", leave=False, delay=1, disable=bar is None)
    with ThreadPoolExecutor() as pool, shown:
        pending = [pool.submit(run, start) for start in range(0, count, chunk)]
        try:
            for finished in pending:
                results = finished.result()
                yield from results
                shown.update(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
