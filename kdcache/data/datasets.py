"""Datasets: reads one by its name and splits it into training, validation and test images.

Labels are read first, then every pixel once, to where it stays: in memory, or in a file that is
mapped. The pixels are uint8, one row an image, the training, validation and test split one after
the other.
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
from kdcache.errors import DataError, OptionError


@dataclass(frozen=True)
class Request:
    """What is wanted of a dataset.

    Args:
        folder: where its files are, or where they are downloaded to.
        limit: of the training and of the test images, take this many, spread evenly over the
            classes; None takes all.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.
        stream: have the pixels in a mapped file (True), in memory (False), or where they fit
            (None). A dataset that is always in memory need not look at it.
    """

    folder: Path
    limit: int | None = None
    store_size: int = 256
    stream: bool | None = None


@dataclass(frozen=True)
class Source:
    """A dataset whose labels are known, and whose pixels can be read.

    Args:
        class_names: K names; label k is the class class_names[k].
        train_labels: int64 `(N,)` of the training images, before some become the validation split.
        test_labels: int64 `(M,)` of the test images.
        read: takes all rows of the training images in some order, int64 `(N,)`, and returns uint8
            `(N + M, 3, H, W)`: the training images in that order, behind them the test images.
        streamed: whether the pixels lie in a mapped file.
    """

    class_names: tuple[str, ...]
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    streamed: bool = False


@dataclass(frozen=True)
class DatasetReader:
    """One dataset: what `--dataset` names.

    Args:
        open: finds its labels and says how to read its pixels.
        is_at_hand: tells, as far as a glance does, whether a folder holds it, so that opening it
            downloads nothing.
        embedded: whether it is drawn, and needs no files at all.
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
    """Read a dataset, and hold back 20 % of its training images, stratified, as validation split.

    Args:
        name: of `DATASETS`, or package.module:name of a `DatasetReader`.
        folder: where the images are, or where torchvision's datasets are downloaded to.
        limit: of the training and of the test images, take this many, spread evenly over the
            classes; None takes all.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop.
        split_seed: of the choice of validation images.
        stream: have the images read ahead instead of kept on the device (True), or not (False), or
            where they are a folder's and would take half of the machine's memory (None). A folder's
            are then decoded into a file in it, which the next call with the same images and the
            same splits finds again.

    Raises OptionError where there is no such dataset; DataError where the images cannot be had,
    cannot be read or are too few to split, or the file cannot be made.
    """
    reader = DATASETS.load(name)
    if not isinstance(reader, DatasetReader):
        raise OptionError(
            f"--dataset {name} to be a DatasetReader", type(reader).__name__, "correct the name"
        )
    source = reader.open(Request(folder, limit, store_size, stream))
    _check_labels(source, name)
    validation = validation_rows(source.train_labels, split_seed)
    if not len(validation) or not len(source.test_labels):
        raise DataError(
            "at least two training images of some class and one test image",
            f"{len(source.train_labels)} training and {len(source.test_labels)} test images"
            f" in {len(source.class_names)} classes",
            "give more images or a larger --limit",
        )
    train = np.setdiff1d(np.arange(len(source.train_labels)), validation)
    labels = (source.train_labels[train], source.train_labels[validation], source.test_labels)
    lengths = [len(own) for own in labels]
    pixels = source.read(np.concatenate((train, validation)))
    _check_pixels(pixels, sum(lengths), name)
    images = torch.from_numpy(pixels).split(lengths)
    splits = {}
    for split, own_images, own_labels in zip(SPLITS, images, labels, strict=True):
        splits[split] = Split(own_images, torch.from_numpy(own_labels))
    streamed = bool(stream) or source.streamed
    return ImageData(name, source.class_names, splits, streamed, limit, store_size, split_seed)


def _check_labels(source: Source, name: str) -> None:
    """A dataset of the user's own may have made them in any way."""
    classes = len(source.class_names)
    for labels in (source.train_labels, source.test_labels):
        right_type = labels.dtype == np.int64 and labels.ndim == 1
        if right_type and np.all((labels >= 0) & (labels < classes)):
            continue
        raise DataError(
            f"--dataset {name} to have labels int64 (N,) of 0 to {classes - 1}",
            f"{labels.dtype} {labels.shape} with {np.unique(labels)[[0, -1]]}",
            "correct its reader",
        )


def _check_pixels(pixels: NDArray[np.uint8], count: int, name: str) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:2] != (count, 3):
        raise DataError(
            f"--dataset {name} to read pixels uint8 ({count}, 3, height, width)",
            f"{pixels.dtype} {pixels.shape}",
            "correct its reader",
        )


def load_selected_images(options: DatasetOptions) -> ImageData:
    """The images that a phase's options name. Raises as `load_images` does."""
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


def source_in_memory(
    class_names: Sequence[str], train: Pair, test: Pair, *, limit: int | None = None
) -> Source:
    """A dataset that is in memory already.

    Args:
        train, test: images uint8 `(N, 3, H, W)` and labels int64 `(N,)`.
        limit: as in `Request`.
    """
    train_images, train_labels = train
    test_images, test_labels = test
    train_rows = evenly_spread_rows(train_labels, limit)
    test_rows = evenly_spread_rows(test_labels, limit)

    def read(order: NDArray[np.int64]) -> NDArray[np.uint8]:
        shape = (len(order) + len(test_rows), *test_images.shape[1:])
        images = np.empty(shape, test_images.dtype)
        # the default mode of np.take copies once more
        np.take(train_images, train_rows[order], 0, out=images[: len(order)], mode="clip")
        np.take(test_images, test_rows, 0, out=images[len(order) :], mode="clip")
        return images

    return Source(tuple(class_names), train_labels[train_rows], test_labels[test_rows], read)


def _open_cifar(kind: type[datasets.CIFAR10], request: Request) -> Source:
    try:
        train = _read_cifar(kind, request.folder, train=True)
        test = _read_cifar(kind, request.folder, train=False)
    except (OSError, RuntimeError) as error:
        name = kind.__name__.lower()
        raise DataError(
            f"{name}'s original files in {request.folder}, or a network to download them",
            f"neither ({error})",
            f"unpack {kind.filename} into {request.folder} or give another --data",
        ) from error
    return source_in_memory(train.classes, _pair(train), _pair(test), limit=request.limit)


def _read_cifar(kind: type[datasets.CIFAR10], folder: Path, *, train: bool) -> datasets.CIFAR10:
    try:
        return kind(folder, train=train, download=False)
    except RuntimeError:  # missing, or its checksums are wrong
        return kind(folder, train=train, download=True)


def _pair(dataset: datasets.CIFAR10) -> Pair:
    return dataset.data.transpose(0, 3, 1, 2), np.asarray(dataset.targets, np.int64)


def _has_cifar(kind: type[datasets.CIFAR10], folder: Path) -> bool:
    return (folder / kind.base_folder).is_dir() or (folder / kind.filename).is_file()


def _open_shapes(request: Request) -> Source:
    """The ten shapes."""
    train_images, train_labels = _render("shapes/train", 1_500, request)
    test_images, test_labels = _render("shapes/test", 4_000, request)
    return source_in_memory(
        coarse_class_names(),
        (train_images, train_labels // 100),
        (test_images, test_labels // 100),
    )


def _open_fine_shapes(request: Request) -> Source:
    """Their thousand fine classes, shape x colour x texture."""
    train = _render("shapes-fine/train", 250_000, request)
    test = _render("shapes-fine/test", 4_000, request)
    return source_in_memory(fine_class_names(), train, test)


def _render(stream: str, count: int, request: Request) -> Pair:
    """The first of `count` images of a stream, up to the limit: the classes come in turn there."""
    return render_shapes(min(count, request.limit or count), stream=stream)


def _open_folder(request: Request) -> Source:
    folder, store_size = request.folder, request.store_size
    train_folder = folder / "train"
    test_folder = folder / "test"
    if not test_folder.is_dir() and (folder / "val").is_dir():
        test_folder = folder / "val"
    class_names, train, train_labels = _list_files(train_folder, request.limit)
    test_names, test, test_labels = _list_files(test_folder, request.limit)
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
        if streamed:
            return read_images_into_file(paths, store_size, folder)
        return read_images(paths, store_size)

    return Source(class_names, train_labels, test_labels, read, streamed)


def _list_files(
    folder: Path, limit: int | None
) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """Class names, files and labels, up to the limit."""
    class_names, files, labels = list_classes(folder)
    rows = evenly_spread_rows(labels, limit)
    return class_names, [files[row] for row in rows], labels[rows]


CIFAR10 = DatasetReader(
    partial(_open_cifar, datasets.CIFAR10), partial(_has_cifar, datasets.CIFAR10)
)
CIFAR100 = DatasetReader(
    partial(_open_cifar, datasets.CIFAR100), partial(_has_cifar, datasets.CIFAR100)
)
FOLDER = DatasetReader(_open_folder, lambda folder: (folder / "train").is_dir())
SHAPES = DatasetReader(_open_shapes, lambda folder: True, embedded=True)
FINE_SHAPES = DatasetReader(_open_fine_shapes, lambda folder: True, embedded=True)
