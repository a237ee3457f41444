"""The images: reads every dataset, divides it, and knows the digest of what it read.

The only module that reads datasets. Labels are read first, then every pixel once, to where it stays: in memory, or in a file
that is mapped; uint8, one row an image, training part, validation part and test split one after the other.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import datasets

from kdcache.config import SPLITS, DatasetOptions
from kdcache.errors import InputError
from kdcache.folders import larger_than_memory, list_classes, read_images, read_images_into_file
from kdcache.shapes import coarse_class_names, fine_class_names, render_shapes

_VALIDATION_SHARE = 0.2
_SHAPES_COUNTS = {"shapes": (1_500, 4_000), "shapes-fine": (250_000, 4_000)}  # (training, test) images
_CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@dataclass(frozen=True)
class Split:
    """Images uint8 `(N, 3, H, W)` and labels int64 `(N,)`; a row of both is an `image_index`.

    Images that lie in a mapped file are read from it when they are looked at.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: np.ndarray) -> "Split":
        """Only these rows: a copy in memory, also where the images lie in a mapped file."""
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
    """A dataset divided into training part, validation part and test split.

    `streamed`: whether pixels are to be read ahead of their use from where they lie, instead of being moved to the device.
    """

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


def load_images(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    store_size: int = 256,
    split_seed: int = 0,
    stream: bool | None = None,
) -> ImageData:
    """Read a dataset and divide its training images 80/20, stratified, into training and validation parts.

    Args:
        name: cifar10, cifar100, folder, shapes or shapes-fine.
        folder: where the images are, or where torchvision's datasets are downloaded to.
        limit: images of the training and of the test split to take, spread evenly over the classes.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.
        stream: have the images read ahead instead of kept on the device (True), or not (False), or where they are a folder's
            and would take half of the machine's memory (None). A folder's are then decoded into a file in it, which the
            next call with the same images and the same division finds again.

    Raises InputError where the images cannot be had, cannot be read, or are too few to divide, or the file cannot be made.
    """
    source = _READERS[name](name, folder, limit, store_size, stream)
    rows = np.arange(len(source.train_labels))
    validation = validation_rows(source.train_labels, split_seed)
    if not len(validation) or not len(source.test_labels):
        raise InputError(
            "at least two training images of some class and one test image",
            f"{len(rows)} training and {len(source.test_labels)} test images in {len(source.class_names)} classes",
            "give more images or a larger --limit",
        )
    train = np.setdiff1d(rows, validation)
    labels = (source.train_labels[train], source.train_labels[validation], source.test_labels)
    images = torch.from_numpy(source.read(np.concatenate((train, validation)))).split([len(part) for part in labels])
    splits = {split: Split(images[part], torch.from_numpy(labels[part])) for part, split in enumerate(SPLITS)}
    return ImageData(name, source.class_names, splits, bool(stream) or source.streamed)


def load_chosen_images(options: DatasetOptions) -> ImageData:
    """The images that a phase's options name. Raises InputError as `load_images` does."""
    return load_images(
        options.dataset or "cifar10",
        options.data,
        limit=options.limit,
        store_size=options.store_size,
        split_seed=options.split_seed,
        stream=options.stream or None,
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


Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `(N, 3, H, W)` and labels `(N,)`."""


@dataclass(frozen=True)
class Source:
    """A dataset whose labels int64 `(N,)` and `(M,)` are known, and whose pixels can be read.

    `read` takes all rows of the training images, int64 `(N,)`, and returns uint8 `(N + M, 3, H, W)`: the training
    images in that order, behind them the test images. `streamed`: whether these lie in a mapped file.
    """

    class_names: tuple[str, ...]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    streamed: bool = False


def _in_memory(class_names: Sequence[str], train: Pair, test: Pair) -> Source:
    """A dataset whose pixels cannot be had without its labels; `train` and `test` are images and labels."""
    (train_images, train_labels), (test_images, test_labels) = train, test

    def read(order: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(order) + len(test_images), *test_images.shape[1:]), np.uint8)
        np.take(train_images, order, 0, out=images[: len(order)], mode="clip")  # the default mode copies once more
        images[len(order) :] = test_images
        return images

    return Source(tuple(class_names), train_labels, test_labels, read)


def _read_cifar(name: str, folder: Path, limit: int | None, store_size: int, stream: bool | None) -> Source:
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
    return _in_memory(train.classes, _from_torchvision(train, limit), _from_torchvision(test, limit))


def _from_torchvision(dataset: Any, limit: int | None) -> Pair:
    labels = np.asarray(dataset.targets, np.int64)
    rows = evenly_spread_rows(labels, limit)
    return dataset.data[rows].transpose(0, 3, 1, 2), labels[rows]


def _read_shapes(name: str, folder: Path, limit: int | None, store_size: int, stream: bool | None) -> Source:
    fine = name == "shapes-fine"

    def render(split: str, count: int) -> Pair:
        images, labels = render_shapes(min(count, limit or count), stream=f"{name}/{split}")
        return images, labels if fine else labels // 100

    train_count, test_count = _SHAPES_COUNTS[name]
    class_names = fine_class_names() if fine else coarse_class_names()
    return _in_memory(class_names, render("train", train_count), render("test", test_count))


def _read_folder(name: str, folder: Path, limit: int | None, store_size: int, stream: bool | None) -> Source:
    train_folder = folder / "train"
    test_folder = next((folder / part for part in ("test", "val") if (folder / part).is_dir()), folder / "test")

    def listed(part: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
        class_names, files, labels = list_classes(part)
        rows = evenly_spread_rows(labels, limit)
        return class_names, [files[row] for row in rows], labels[rows]

    class_names, train, train_labels = listed(train_folder)
    test_names, test, test_labels = listed(test_folder)
    if class_names != test_names:
        only = ", ".join(sorted(set(class_names) ^ set(test_names)))
        raise InputError(
            f"the same class folders in {train_folder} and {test_folder}",
            f"only in one of them: {only}",
            "add or remove the class folders",
        )

    streamed = larger_than_memory(train + test, store_size) if stream is None else stream

    def read(order: NDArray[np.int64]) -> NDArray[np.uint8]:
        paths = [train[row] for row in order] + test
        return read_images_into_file(paths, store_size, folder) if streamed else read_images(paths, store_size)

    return Source(class_names, train_labels, test_labels, read, streamed)


_READERS: dict[str, Callable[[str, Path, int | None, int, bool | None], Source]] = {
    "cifar10": _read_cifar,
    "cifar100": _read_cifar,
    "folder": _read_folder,
    "shapes": _read_shapes,
    "shapes-fine": _read_shapes,
}
