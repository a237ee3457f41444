"""Image files: finds them, in class folders or anywhere, and decodes them.

They are decoded into memory or into a file that is mapped. No other module reads image files.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from kdcache.data.mapped_pixels import PutImage, find_pixels, make_pixels
from kdcache.errors import DataError
from kdcache.runtime import fits_in_memory

Result = TypeVar("Result")

_CHUNK = 64  # files that a thread takes at a time: enough that handing them out costs nothing


def image_files(places: Sequence[Path]) -> list[Path]:
    """Every file among `places`, and every image file below each folder, in alphabetical order.

    An image file is one whose suffix Pillow knows. Hidden files and what is below hidden folders do
    not count.

    Raises DataError where a place is not there, or where there is no image at all.
    """
    found = []
    for place in places:
        if place.is_dir():
            found += _images_below(place)
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(
                "image files or folders of them", f"{place}, which is neither", "correct the path"
            )
    if not found:
        searched = ", ".join(map(str, places))
        raise DataError("image files or folders of them", f"no image in {searched}", "give others")
    return found


def _images_below(folder: Path) -> list[Path]:
    Image.init()
    formats = Image.registered_extensions()
    suffixes = {suffix for suffix, kind in formats.items() if kind in Image.OPEN}
    found = []
    for path in folder.rglob("*"):
        hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in suffixes and path.is_file():
            found.append(path)
    return sorted(found)


def list_classes(folder: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """Class names, files and their labels int64 `(N,)` of a folder with one folder a class.

    Classes and files come in alphabetical order. What is hidden, and what lies beside the class
    folders, does not count.

    Raises DataError where there is no such folder, no class, or a class without a file.
    """
    if not folder.is_dir():
        raise DataError(
            f"a folder {folder} with one folder a class", "no such folder", "correct --data"
        )
    class_folders = [path for path in _visible(folder) if path.is_dir()]
    if not class_folders:
        raise DataError(
            f"a class folder in {folder}",
            "none",
            "correct --data, or put the images into a folder in it",
        )
    files = []
    labels = []
    for label, class_folder in enumerate(class_folders):
        members = [path for path in _visible(class_folder) if path.is_file()]
        if not members:
            raise DataError(f"images in {class_folder}", "none", "add images or remove the folder")
        files += members
        labels += [label] * len(members)
    return tuple(path.name for path in class_folders), files, np.array(labels, np.int64)


def _visible(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def read_image(path: Path, shape: tuple[int, int]) -> Tensor:
    """Read one image as a dataset whose images have `shape` (height, width) would.

    It is taken as it is where it has that shape, else resized and cropped to it.

    Returns uint8 `(3, height, width)`. Raises DataError where it cannot be read.
    """
    return torch.from_numpy(_decode(path, shape))


def read_images(paths: Sequence[Path], store_size: int) -> NDArray[np.uint8]:
    """Decode image files into memory, uint8 `(N, 3, H, W)`.

    They are taken as they are where all have one size, else resized and cropped to squares of
    `store_size` pixels. Raises DataError where one cannot be read.
    """
    shape = _shape_of(paths[0])
    # to look at all headers first takes a third longer where images are small
    if fits_in_memory(_bytes_of(len(paths), shape)):
        images = _read_if_alike(paths, shape)
        if images is not None:
            return images
        shape = (store_size, store_size)
    else:
        shape = _common_shape(paths, store_size)
    images = np.empty((len(paths), 3, *shape), np.uint8)
    _decode_all(paths, shape, images.__setitem__)
    return images


def _read_if_alike(paths: Sequence[Path], shape: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The images `(N, 3, *shape)`; None as soon as one has another shape."""
    images = np.empty((len(paths), 3, *shape), np.uint8)

    def place_if_alike(row: int) -> bool:
        with _open(paths[row]) as image:
            alike = (image.height, image.width) == shape
            if alike:
                images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        return alike

    return images if all(_in_threads("reading images", place_if_alike, len(paths))) else None


def read_images_into_file(
    paths: Sequence[Path], store_size: int, folder: Path
) -> NDArray[np.uint8]:
    """The same as `read_images`, mapped from a file in `folder`, which holds all the images.

    A later call finds the file again. Its name covers all that shapes its bytes: which files in
    which order, their sizes and times, and the decoder.

    Raises DataError where an image cannot be read, or the file cannot be made.
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
    """Whether the pixels of `read_images` would take half of the machine's memory or more."""
    native_fits = fits_in_memory(_bytes_of(len(paths), _shape_of(paths[0])))
    stored_fits = fits_in_memory(_bytes_of(len(paths), (store_size, store_size)))
    if native_fits == stored_fits:  # whichever shape it will be
        return not native_fits
    return not fits_in_memory(_bytes_of(len(paths), _common_shape(paths, store_size)))


def _bytes_of(count: int, shape: tuple[int, int]) -> int:
    """Bytes of `count` decoded images of `shape` (height, width)."""
    return count * 3 * shape[0] * shape[1]


def _common_shape(paths: Sequence[Path], store_size: int) -> tuple[int, int]:
    """Height and width of all files by their headers; of the stored crop where they differ."""
    first = _shape_of(paths[0])
    alike = _in_threads("comparing sizes", lambda row: _shape_of(paths[row]) == first, len(paths))
    return first if all(alike) else (store_size, store_size)


def _key(paths: Sequence[Path], store_size: int, folder: Path) -> str:
    """What tells one decoding from another, as 16 hexadecimal digits."""
    decoder = f"kdcache pixels 1, Pillow {PIL.__version__}, store size {store_size}\n"
    sha = hashlib.sha256(decoder.encode())
    for path in paths:
        with _naming(path):
            facts = path.stat()
        sha.update(os.fsencode(path.relative_to(folder)))
        sha.update(f"\0{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return sha.hexdigest()[:16]


def _decode_all(paths: Sequence[Path], shape: tuple[int, int], put: PutImage) -> None:
    def decode(row: int) -> None:
        put(row, _decode(paths[row], shape))

    for _ in _in_threads("reading images", decode, len(paths)):
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


def _shape_of(path: Path) -> tuple[int, int]:
    """Height and width, for which the file's header is enough."""
    with _open(path) as image:
        return image.height, image.width


def _decode(path: Path, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """`(3, height, width)`: as it is where it has that shape, else resized and cropped to it."""
    with _open(path) as image:
        pixels = image.convert("RGB")
        if (image.height, image.width) != shape:
            pixels = _resize_and_crop(pixels, *shape)
        return np.array(pixels).transpose(2, 0, 1)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    with _naming(path), Image.open(path) as image:
        yield image


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file's decoder raises nearly anything, even RuntimeError
        raise DataError(
            "an image that Pillow reads", f"{path} ({error})", "replace or remove the file"
        ) from error


def _resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The smallest size that covers `height` x `width`, then the centre."""
    scale = max(width / image.width, height / image.height)
    wide = max(width, round(image.width * scale))
    tall = max(height, round(image.height * scale))
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left = (wide - width) // 2
    top = (tall - height) // 2
    return image.crop((left, top, left + width, top + height))
