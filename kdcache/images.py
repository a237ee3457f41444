"""The images: reads every dataset, divides it, and knows the digest of what it read.

The only module that reads datasets. Everything is held in memory as uint8 at its native size.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from tqdm import tqdm

from kdcache.config import SPLITS, DatasetOptions
from kdcache.errors import InputError
from kdcache.shapes import coarse_class_names, fine_class_names, render_shapes

_VALIDATION_SHARE = 0.2
_SHAPES_COUNTS = {"shapes": (1_500, 4_000), "shapes-fine": (250_000, 4_000)}  # (training, test) images
_CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@dataclass(frozen=True)
class Split:
    """Images uint8 `(N, 3, H, W)` and labels int64 `(N,)`; a row of both is an `image_index`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "Split":
        rows = torch.from_numpy(rows)
        return Split(self.images[rows], self.labels[rows])

    def spread(self, count: int | None) -> np.ndarray:
        """The rows of `count` images, the same share of every class; all rows for None."""
        return evenly_spread_rows(self.labels.numpy(), count)

    def row_checksums(self) -> np.ndarray:
        """CRC32 of each image's pixels followed by its label as int64, uint32 `(N,)`."""
        pairs = zip(self.images.contiguous().numpy(), self.labels.numpy(), strict=True)
        return np.fromiter((zlib.crc32(label.tobytes(), zlib.crc32(image)) for image, label in pairs), "<u4", len(self))

    def digest(self) -> str:
        """SHA-256 of shape, pixels and labels; worked out once, since all students of a sweep ask for it."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        sha.update(self.images.contiguous().numpy())
        sha.update(self.labels.contiguous().numpy())
        return sha.hexdigest()


@dataclass(frozen=True)
class ImageData:
    """A dataset divided into training part, validation part and test split."""

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    streamed: bool = False

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.splits["train"].images.shape[2:])

    def with_train(self, rows: np.ndarray) -> "ImageData":
        """With only these rows of the training part."""
        train = self.splits["train"]
        if len(rows) == len(train):
            return self
        return dataclasses.replace(self, splits=self.splits | {"train": train.select(rows)})


def load_images(name: str, folder: Path, *, limit: int | None = None, store_size: int = 256, split_seed: int = 0) -> ImageData:
    """Read a dataset and divide its training images 80/20, stratified, into training and validation parts.

    Args:
        name: cifar10, cifar100, folder, shapes or shapes-fine.
        folder: where the images are, or where torchvision's datasets are downloaded to.
        limit: images of the training and of the test split to take, spread evenly over the classes.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.

    Raises InputError where the images cannot be had, cannot be read, or are too few to divide.
    """
    class_names, train, test = _READERS[name](name, folder, limit, store_size)
    rows = np.arange(len(train))
    validation = validation_rows(train.labels.numpy(), split_seed)
    if not len(validation) or not len(test):
        raise InputError(
            "at least two training images of some class and one test image",
            f"{len(train)} training and {len(test)} test images in {len(class_names)} classes",
            "give more images or a larger --limit",
        )
    parts = (train.select(np.setdiff1d(rows, validation)), train.select(validation), test)
    return ImageData(name, class_names, dict(zip(SPLITS, parts, strict=True)))


def load_chosen_images(options: DatasetOptions) -> ImageData:
    """The images that a phase's options name. Raises InputError as `load_images` does."""
    return load_images(
        options.dataset or "cifar10",
        options.data,
        limit=options.limit,
        store_size=options.store_size,
        split_seed=options.split_seed,
    )


def validation_rows(labels: np.ndarray, seed: int) -> np.ndarray:
    """The rows of the validation part, ascending: 20 % of each class, at least one where a class has two."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = max(round(len(rows) * _VALIDATION_SHARE), int(len(rows) > 1))
        chosen.append(rows[:count])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def evenly_spread_rows(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """The first rows of each class in turn until there are `limit`, ascending; all rows without a limit."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    rank_in_class = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = labels == label
        rank_in_class[members] = np.arange(members.sum())
    return np.sort(np.lexsort((labels, rank_in_class))[:limit])


def are_here(name: str, folder: Path) -> bool:
    """Whether `folder` holds a dataset, as far as a glance tells, so that reading it needs no network."""
    if name in _CIFAR:
        return (folder / _CIFAR[name].base_folder).is_dir() or (folder / _CIFAR[name].filename).is_file()
    return name in _SHAPES_COUNTS or (name == "folder" and (folder / "train").is_dir())


def image_files(places: Sequence[Path]) -> list[Path]:
    """The files among `places`, and below each folder all whose suffix is one that Pillow reads, in alphabetical order.

    Hidden files and what is below hidden folders do not count.

    Raises InputError where a place is not there, or where there is no image at all.
    """
    Image.init()
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = []
    for place in places:
        if place.is_dir():
            members = (path for path in place.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
            found += sorted(path for path in members if not _is_hidden(path.relative_to(place)))
        elif place.is_file():
            found.append(place)
        else:
            raise InputError("image files or folders of them", f"{place}, which is neither", "correct the path")
    if not found:
        raise InputError("image files or folders of them", f"no image in {', '.join(map(str, places))}", "give others")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_image(path: Path, shape: tuple[int, int]) -> Tensor:
    """One image as those of a dataset whose images have `shape` (height, width): uint8 `(3, height, width)`.

    It is taken as it is where it has that shape, else resized and cropped to it. Raises InputError where it cannot be read.
    """
    with _opened(path) as image:
        pixels = image.convert("RGB")
        if (image.height, image.width) != shape:
            pixels = _resize_and_crop(pixels, *shape)
        return torch.from_numpy(np.array(pixels).transpose(2, 0, 1))


Read = tuple[tuple[str, ...], Split, Split]


def _read_cifar(name: str, folder: Path, limit: int | None, store_size: int) -> Read:
    kind = _CIFAR[name]

    def read(train: bool) -> Any:
        try:
            return kind(folder, train=train, download=False)
        except RuntimeError:  # missing, or its checksums are wrong
            return kind(folder, train=train, download=True)

    try:
        train, test = read(True), read(False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{name}'s original files in {folder}, or a network to download them",
            f"neither ({error})",
            f"unpack {kind.filename} into {folder} or give another --data",
        ) from error
    return tuple(train.classes), *(_from_torchvision(split, limit) for split in (train, test))


def _from_torchvision(dataset: Any, limit: int | None) -> Split:
    labels = np.asarray(dataset.targets, np.int64)
    rows = evenly_spread_rows(labels, limit)
    images = np.ascontiguousarray(dataset.data[rows].transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(images), torch.from_numpy(labels[rows]))


def _read_shapes(name: str, folder: Path, limit: int | None, store_size: int) -> Read:
    fine = name == "shapes-fine"

    def render(split: str, count: int) -> Split:
        images, labels = render_shapes(min(count, limit or count), stream=f"{name}/{split}")
        return Split(torch.from_numpy(images), torch.from_numpy(labels if fine else labels // 100))

    train_count, test_count = _SHAPES_COUNTS[name]
    class_names = fine_class_names() if fine else coarse_class_names()
    return class_names, render("train", train_count), render("test", test_count)


def _read_folder(name: str, folder: Path, limit: int | None, store_size: int) -> Read:
    train_folder = folder / "train"
    test_folder = next((folder / part for part in ("test", "val") if (folder / part).is_dir()), folder / "test")
    class_names, train = _list_folder(train_folder, limit)
    test_names, test = _list_folder(test_folder, limit)
    if class_names != test_names:
        only = ", ".join(sorted(set(class_names) ^ set(test_names)))
        raise InputError(
            f"the same class folders in {train_folder} and {test_folder}",
            f"only in one of them: {only}",
            "add or remove the class folders",
        )
    images = _read_images([path for path, _ in train + test], store_size)
    labels = torch.tensor([label for _, label in train + test])
    cut = len(train)
    return class_names, Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])


def _list_folder(folder: Path, limit: int | None) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names in alphabetical order, and the (file, label) pairs, classes and files in that order."""
    if not folder.is_dir():
        raise InputError(f"a folder {folder} with one folder a class", "no such folder", "correct --data")
    class_folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not class_folders:
        raise InputError(f"a class folder in {folder}", "none", "correct --data, or put the images into a folder in it")
    files, labels = [], []
    for label, class_folder in enumerate(class_folders):
        members = sorted(path for path in class_folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if not members:
            raise InputError(f"images in {class_folder}", "none", "add images or remove the folder")
        files += members
        labels += [label] * len(members)
    rows = evenly_spread_rows(np.array(labels), limit)
    return tuple(path.name for path in class_folders), [(files[row], labels[row]) for row in rows]


def _read_images(paths: list[Path], store_size: int) -> Tensor:
    """uint8 `(N, 3, H, W)`: as they are where all have one size, else resized and cropped to `store_size`."""
    with _opened(paths[0]) as first:
        width, height = first.size
    images = np.empty((len(paths), 3, height, width), np.uint8)

    def place(row: int) -> bool:
        with _opened(paths[row]) as image:
            fits = image.size == (width, height)
            if fits:
                images[row] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        return fits

    if not all(_in_threads(place, len(paths))):
        images = np.empty((len(paths), 3, store_size, store_size), np.uint8)

        def place_cropped(row: int) -> None:
            with _opened(paths[row]) as image:
                images[row] = np.asarray(_resize_and_crop(image.convert("RGB"), store_size, store_size)).transpose(2, 0, 1)

        _in_threads(place_cropped, len(paths))
    return torch.from_numpy(images)


def _in_threads(function: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(function, range(count)), "reading images", count, unit="image", leave=False, delay=1))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # the decoder of a damaged file raises nearly anything, AVIF's a RuntimeError
        raise InputError("an image that Pillow reads", f"{path} ({error})", "replace or remove the file") from error


def _resize_and_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The smallest size that covers `height` x `width`, then the centre."""
    scale = max(width / image.width, height / image.height)
    wide, tall = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - width) // 2, (tall - height) // 2
    return image.crop((left, top, left + width, top + height))


_READERS = {
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "folder": _read_folder,
    "shapes": _read_shapes,
    "shapes-fine": _read_shapes,
}
