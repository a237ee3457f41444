"""The images: reads every dataset, divides it, and knows the digest of what it read.

The only module that reads datasets. Labels are read first, then every pixel once, to where it stays: in memory, or in a file
that is mapped; uint8, one row an image, training part, validation part and test split one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import datasets

from kdcache.config import DATASETS, SPLITS, DatasetOptions
from kdcache.data.image_folder import (
    larger_than_memory,
    list_classes,
    read_images,
    read_images_into_file,
)
from kdcache.data.shapes import coarse_class_names, fine_class_names, render_shapes
from kdcache.data.splits import ImageData, Split, evenly_spread_rows, validation_rows
from kdcache.errors import DataError


@dataclass(frozen=True)
class Request:
    """What is wanted of a dataset.

    Args:
        folder: where its files are, or where torchvision's datasets are downloaded to.
        limit: images of the training and of the test split to take, spread evenly over the classes; None takes all.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.
        stream: have the pixels in a mapped file (True), in memory (False), or where they fit (None).
    """

    folder: Path
    limit: int | None = None
    store_size: int = 256
    stream: bool | None = None


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


@dataclass(frozen=True)
class DatasetReader:
    """One dataset: what `--dataset` names.

    `open` finds its labels and says how to read its pixels. `is_at_hand` tells, as far as a glance does, whether a folder
    holds it, so that opening it downloads nothing. `embedded`: it is drawn, and needs no files at all.
    """

    open: Callable[[Request], Source]
    is_at_hand: Callable[[Path], bool] = lambda folder: False
    embedded: bool = False


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
        name: of `DATASETS`, or package.module:name of a `DatasetReader`.
        folder: where the images are, or where torchvision's datasets are downloaded to.
        limit: images of the training and of the test split to take, spread evenly over the classes.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.
        stream: have the images read ahead instead of kept on the device (True), or not (False), or where they are a folder's
            and would take half of the machine's memory (None). A folder's are then decoded into a file in it, which the
            next call with the same images and the same division finds again.

    Raises DataError where the images cannot be had, cannot be read, or are too few to divide, or the file cannot be made.
    """
    reader: DatasetReader = DATASETS.load(name)
    source = reader.open(Request(folder, limit, store_size, stream))
    rows = np.arange(len(source.train_labels))
    validation = validation_rows(source.train_labels, split_seed)
    if not len(validation) or not len(source.test_labels):
        raise DataError(
            "at least two training images of some class and one test image",
            f"{len(rows)} training and {len(source.test_labels)} test images in {len(source.class_names)} classes",
            "give more images or a larger --limit",
        )
    train = np.setdiff1d(rows, validation)
    labels = (source.train_labels[train], source.train_labels[validation], source.test_labels)
    images = torch.from_numpy(source.read(np.concatenate((train, validation)))).split(
        [len(part) for part in labels]
    )
    splits = {
        split: Split(images[part], torch.from_numpy(labels[part]))
        for part, split in enumerate(SPLITS)
    }
    return ImageData(name, source.class_names, splits, bool(stream) or source.streamed)


def load_selected_images(options: DatasetOptions) -> ImageData:
    """The images that a phase's options name. Raises DataError as `load_images` does."""
    return load_images(
        options.dataset or "cifar10",
        options.data,
        limit=options.limit,
        store_size=options.store_size,
        split_seed=options.split_seed,
        stream=options.stream or None,
    )


Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images `(N, 3, H, W)` and labels `(N,)`."""


def source_in_memory(class_names: Sequence[str], train: Pair, test: Pair) -> Source:
    """A dataset that is in memory already; `train` and `test` are images uint8 `(N, 3, H, W)` and labels int64 `(N,)`."""
    (train_images, train_labels), (test_images, test_labels) = train, test

    def read(order: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = np.empty((len(order) + len(test_images), *test_images.shape[1:]), np.uint8)
        np.take(
            train_images, order, 0, out=images[: len(order)], mode="clip"
        )  # the default mode copies once more
        images[len(order) :] = test_images
        return images

    return Source(tuple(class_names), train_labels, test_labels, read)


def _open_cifar(kind: type[datasets.CIFAR10], request: Request) -> Source:
    def read(train: bool) -> datasets.CIFAR10:
        try:
            return kind(request.folder, train=train, download=False)
        except RuntimeError:  # missing, or its checksums are wrong
            return kind(request.folder, train=train, download=True)

    try:
        train, test = read(True), read(False)
    except (OSError, RuntimeError) as error:
        name = kind.__name__.lower()
        raise DataError(
            f"{name}'s original files in {request.folder}, or a network to download them",
            f"neither ({error})",
            f"unpack {kind.filename} into {request.folder} or give another --data",
        ) from error
    pairs = (_pair(split, request.limit) for split in (train, test))
    return source_in_memory(train.classes, *pairs)


def _pair(dataset: datasets.CIFAR10, limit: int | None) -> Pair:
    labels = np.asarray(dataset.targets, np.int64)
    rows = evenly_spread_rows(labels, limit)
    return dataset.data[rows].transpose(0, 3, 1, 2), labels[rows]


def _has_cifar(kind: type[datasets.CIFAR10], folder: Path) -> bool:
    return (folder / kind.base_folder).is_dir() or (folder / kind.filename).is_file()


def _open_shapes(train: int, request: Request) -> Source:
    """The ten shapes; `train` training images."""

    def render(split: str, count: int) -> Pair:
        count = min(count, request.limit or count)
        images, labels = render_shapes(count, stream=f"shapes/{split}")
        return images, labels // 100

    return source_in_memory(
        coarse_class_names(), render("train", train), render("test", _SHAPES_TEST)
    )


def _open_fine_shapes(train: int, request: Request) -> Source:
    """Their thousand fine classes, shape x colour x texture."""

    def render(split: str, count: int) -> Pair:
        count = min(count, request.limit or count)
        return render_shapes(count, stream=f"shapes-fine/{split}")

    return source_in_memory(
        fine_class_names(), render("train", train), render("test", _SHAPES_TEST)
    )


def _open_folder(request: Request) -> Source:
    folder, limit, store_size = request.folder, request.limit, request.store_size
    train_folder = folder / "train"
    test_folder = next(
        (folder / part for part in ("test", "val") if (folder / part).is_dir()), folder / "test"
    )

    def listed(part: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
        class_names, files, labels = list_classes(part)
        rows = evenly_spread_rows(labels, limit)
        return class_names, [files[row] for row in rows], labels[rows]

    class_names, train, train_labels = listed(train_folder)
    test_names, test, test_labels = listed(test_folder)
    if class_names != test_names:
        only = ", ".join(sorted(set(class_names) ^ set(test_names)))
        raise DataError(
            f"the same class folders in {train_folder} and {test_folder}",
            f"only in one of them: {only}",
            "add or remove the class folders",
        )

    streamed = request.stream
    if streamed is None:
        streamed = larger_than_memory(train + test, store_size)

    def read(order: NDArray[np.int64]) -> NDArray[np.uint8]:
        paths = [train[row] for row in order] + test
        return (
            read_images_into_file(paths, store_size, folder)
            if streamed
            else read_images(paths, store_size)
        )

    return Source(class_names, train_labels, test_labels, read, streamed)


_SHAPES_TEST = 4_000  # test images of both embedded datasets

CIFAR10 = DatasetReader(
    partial(_open_cifar, datasets.CIFAR10), partial(_has_cifar, datasets.CIFAR10)
)
CIFAR100 = DatasetReader(
    partial(_open_cifar, datasets.CIFAR100), partial(_has_cifar, datasets.CIFAR100)
)
FOLDER = DatasetReader(_open_folder, lambda folder: (folder / "train").is_dir())
SHAPES = DatasetReader(partial(_open_shapes, 1_500), lambda folder: True, embedded=True)
FINE_SHAPES = DatasetReader(partial(_open_fine_shapes, 250_000), lambda folder: True, embedded=True)
