"""Decodes many image files to one size, into memory or into a file that is mapped."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdcache.data.files.decoding import decode, decoder_version, naming_file, upright_shape
from kdcache.data.files.mapped_pixels import PutImage, find_pixels, make_pixels
from kdcache.errors import KdcacheWarning

Result = TypeVar("Result")

DEFAULT_STORE_SIZE = 256
_NEARLY_ALL = 0.9  # of the images, whose one size all of them get
_CHUNK = 64  # files that a thread takes at a time: enough that handing them out costs nothing


def common_shape(paths: Sequence[Path], store_size: int | None) -> tuple[int, int]:
    """Height and width in pixels to which all images are brought, by the headers of the files.

    It is the size that all have. Where they differ, it is a square of `store_size`; without one the
    size of at least nine in ten images, else a square of 256, and a KdcacheWarning says so.

    Raises DataError where a file cannot be read.
    """
    shapes = list(_in_threads("comparing sizes", lambda row: upright_shape(paths[row]), len(paths)))
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


def read_images(paths: Sequence[Path], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode image files into memory, uint8 `(N, 3, *shape)`.

    They are taken as they are where they have that shape, else resized and cropped to it. Raises
    DataError where one cannot be read.
    """
    images = np.empty((len(paths), 3, *shape), np.uint8)
    _decode_all(paths, shape, images.__setitem__)
    return images


def read_images_into_file(
    paths: Sequence[Path], shape: tuple[int, int], folder: Path
) -> NDArray[np.uint8]:
    """The same as `read_images`, mapped from a file in `folder`, which holds all the images.

    A later call finds the file again. Its name covers all that shapes its bytes: which files in
    which order, their sizes and times, the shape, and the decoder.

    Raises DataError where an image cannot be read, or the file cannot be made.
    """
    path = folder / f"kdcache-{_key(paths, shape, folder)}.npy"
    pixels = find_pixels(path, (len(paths), 3, *shape))
    if pixels is None:
        pixels = make_pixels(
            path, (len(paths), 3, *shape), lambda put: _decode_all(paths, shape, put)
        )
    return pixels


def _key(paths: Sequence[Path], shape: tuple[int, int], folder: Path) -> str:
    """What tells one decoding from another, as 16 hexadecimal digits."""
    sha = hashlib.sha256(f"kdcache pixels 2, {decoder_version()}, {_size(shape)}\n".encode())
    for path in paths:
        with naming_file(path):
            facts = path.stat()
        sha.update(os.fsencode(path.relative_to(folder)))
        sha.update(f"\0{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return sha.hexdigest()[:16]


def _decode_all(paths: Sequence[Path], shape: tuple[int, int], put: PutImage) -> None:
    def decode_row(row: int) -> None:
        put(row, decode(paths[row], shape))

    for _ in _in_threads("reading images", decode_row, len(paths)):
        pass


def _in_threads(
    what: str, function: Callable[[int], Result], count: int
) -> Generator[Result, None, None]:
    """What `function` returns for 0, 1, ..., count - 1, in this order, with a progress bar.

    What has not begun when the generator is closed is not done at all.
    """

    def run(start: int) -> list[Result]:
        return [function(row) for row in range(start, min(start + _CHUNK, count))]

    bar = tqdm(desc=what, total=count, unit="image", leave=False, delay=1)
    with ThreadPoolExecutor() as pool, bar:
        pending = [pool.submit(run, start) for start in range(0, count, _CHUNK)]
        try:
            for chunk in pending:
                results = chunk.result()
                yield from results
                bar.update(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
