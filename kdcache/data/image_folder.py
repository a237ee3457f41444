"""Image files: finds them, in class folders or anywhere, and decodes them, into memory or into a file that is mapped.

The only module that reads image files.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from kdcache.data.mapped_pixels import Put, find_pixels, make_pixels
from kdcache.errors import KdcacheError
from kdcache.runtime import fits_in_memory

_CHUNK = 64  # files that a thread takes at a time: enough that handing them out costs nothing


def image_files(places: Sequence[Path]) -> list[Path]:
    """The files among `places`, and below each folder all whose suffix is one that Pillow reads, in alphabetical order.

    Hidden files and what is below hidden folders do not count.

    Raises KdcacheError where a place is not there, or where there is no image at all.
    """
    Image.init()
    suffixes = {
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN
    }
    found = []
    for place in places:
        if place.is_dir():
            members = (
                path
                for path in place.rglob("*")
                if path.suffix.lower() in suffixes and path.is_file()
            )
            found += sorted(path for path in members if not _is_hidden(path.relative_to(place)))
        elif place.is_file():
            found.append(place)
        else:
            raise KdcacheError(
                "image files or folders of them", f"{place}, which is neither", "correct the path"
            )
    if not found:
        raise KdcacheError(
            "image files or folders of them",
            f"no image in {', '.join(map(str, places))}",
            "give others",
        )
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def list_classes(folder: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """Class names, files and their labels `(N,)` of a folder with one folder a class; classes and files in alphabetical order.

    What is hidden, and what lies beside the class folders, does not count.

    Raises KdcacheError where there is no such folder, no class, or a class without a file.
    """
    if not folder.is_dir():
        raise KdcacheError(
            f"a folder {folder} with one folder a class", "no such folder", "correct --data"
        )
    class_folders = sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not class_folders:
        raise KdcacheError(
            f"a class folder in {folder}",
            "none",
            "correct --data, or put the images into a folder in it",
        )
    files, labels = [], []
    for label, class_folder in enumerate(class_folders):
        members = sorted(
            path
            for path in class_folder.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )
        if not members:
            raise KdcacheError(
                f"images in {class_folder}", "none", "add images or remove the folder"
            )
        files += members
        labels += [label] * len(members)
    return tuple(path.name for path in class_folders), files, np.array(labels, np.int64)


def read_image(path: Path, shape: tuple[int, int]) -> Tensor:
    """One image as those of a dataset whose images have `shape` (height, width): uint8 `(3, height, width)`.

    It is taken as it is where it has that shape, else resized and cropped to it. Raises KdcacheError where it cannot be read.
    """
    return torch.from_numpy(_decoded(path, shape))


def read_images(paths: Sequence[Path], store_size: int) -> NDArray[np.uint8]:
    """Image files `(N, 3, H, W)`: as they are where all have one size, else resized and cropped to `store_size`.

    Raises KdcacheError where one cannot be read.
    """
    shape = _shape_of(paths[0])
    if fits_in_memory(
        _size_of(paths, shape)
    ):  # to look at all headers first takes a third longer where images are small
        images = np.empty((len(paths), 3, *shape), np.uint8)

        def place_if_alike(row: int) -> bool:
            with _opened(paths[row]) as image:
                alike = (image.height, image.width) == shape
                if alike:
                    images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            return alike

        if all(_in_threads("reading images", place_if_alike, len(paths))):
            return images
        shape = (store_size, store_size)
    else:
        shape = _common_shape(paths, store_size)
    images = np.empty((len(paths), 3, *shape), np.uint8)
    _decode_all(paths, shape, images.__setitem__)
    return images


def read_images_into_file(
    paths: Sequence[Path], store_size: int, folder: Path
) -> NDArray[np.uint8]:
    """The same as `read_images`, mapped from a file in a folder that holds all the images; a later call finds it again.

    The file's name covers all that shapes its bytes: which files in which order, their sizes and times, and the decoder.

    Raises KdcacheError where an image cannot be read, or the file cannot be made.
    """
    path = folder / f"kdcache-{_key(paths, store_size, folder)}.npy"
    shapes = (_shape_of(paths[0]), (store_size, store_size))
    pixels = find_pixels(path, [(len(paths), 3, *shape) for shape in shapes])
    if pixels is None:
        shape = _common_shape(paths, store_size)
        pixels = make_pixels(
            path, (len(paths), 3, *shape), lambda put: _decode_all(paths, shape, put)
        )
    return pixels


def larger_than_memory(paths: Sequence[Path], store_size: int) -> bool:
    """Whether the pixels that `read_images` returns would take half of the machine's memory or more."""
    native, stored = (
        fits_in_memory(_size_of(paths, shape))
        for shape in (_shape_of(paths[0]), (store_size, store_size))
    )
    if native == stored:  # whichever it will be
        return not native
    return not fits_in_memory(_size_of(paths, _common_shape(paths, store_size)))


def _size_of(paths: Sequence[Path], shape: tuple[int, int]) -> int:
    """Bytes of so many decoded images."""
    return len(paths) * 3 * shape[0] * shape[1]


def _common_shape(paths: Sequence[Path], store_size: int) -> tuple[int, int]:
    """Height and width of all files by their headers; where they are not all the same, those of the stored crop."""
    first = _shape_of(paths[0])
    alike = _in_threads("comparing sizes", lambda row: _shape_of(paths[row]) == first, len(paths))
    return first if all(alike) else (store_size, store_size)


def _key(paths: Sequence[Path], store_size: int, folder: Path) -> str:
    """What tells one decoding from another, as 16 hexadecimal digits."""
    sha = hashlib.sha256(
        f"kdcache pixels 1, Pillow {PIL.__version__}, store size {store_size}\n".encode()
    )
    for path in paths:
        with _naming(path):
            facts = path.stat()
        sha.update(
            os.fsencode(path.relative_to(folder))
            + f"\0{facts.st_size} {facts.st_mtime_ns}\n".encode()
        )
    return sha.hexdigest()[:16]


def _decode_all(paths: Sequence[Path], shape: tuple[int, int], put: Put) -> None:
    for _ in _in_threads(
        "reading images", lambda row: put(row, _decoded(paths[row], shape)), len(paths)
    ):
        pass


def _in_threads(what: str, function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """What a function returns for 0, 1, ..., count - 1, in this order. What has not begun when it is closed is left out."""

    def run(start: int) -> list[Any]:
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


def _shape_of(path: Path) -> tuple[int, int]:
    """Height and width, for which the file's header is enough."""
    with _opened(path) as image:
        return image.height, image.width


def _decoded(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """`(3, height, width)`: as it is where it has that shape, else resized and cropped to it."""
    with _opened(path) as image:
        pixels = image.convert("RGB")
        if (image.height, image.width) != shape:
            pixels = _resize_and_crop(pixels, *shape)
        return np.array(pixels).transpose(2, 0, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _naming(path), Image.open(path) as image:
        yield image


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        Exception
    ) as error:  # the decoder of a damaged file raises nearly anything, AVIF's a RuntimeError
        raise KdcacheError(
            "an image that Pillow reads", f"{path} ({error})", "replace or remove the file"
        ) from error


def _resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The smallest size that covers `height` x `width`, then the centre."""
    scale = max(width / image.width, height / image.height)
    wide, tall = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - width) // 2, (tall - height) // 2
    return image.crop((left, top, left + width, top + height))
