"""Datasets: reads one by its name and splits it into training, validation and test images.

Labels are read first, then the pixels into memory; those of a large image folder stay in its files
until they are looked at. The pixels are uint8, one row an image, the training, validation and test
split one after the other.
"""

import math
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import datasets

from kdcache.config import DATASETS, SPLITS, UNLABELLED, DatasetOptions
from kdcache.data.files.finding import image_files, list_classes
from kdcache.data.files.image_folder import (
    DEFAULT_STORE_SIZE,
    LazyImages,
    common_shape,
)
from kdcache.data.shapes import coarse_class_names, fine_class_names, render_shapes
from kdcache.data.sources import (
    DatasetReader,
    Pair,
    Request,
    Source,
    check_labels,
    check_pixels,
    source_in_memory,
)
from kdcache.data.splits import ImageData, Split, evenly_spread_rows, validation_rows
from kdcache.errors import DataError, KdcacheWarning, OptionError
from kdcache.runtime import fits_in_memory


def load_images(
    name: str,
    folder: Path,
    *,
    limit: int | None = None,
    store_size: int | None = None,
    image_shape: tuple[int, int] | None = None,
    split_seed: int = 0,
    stream: bool | None = None,
) -> ImageData:
    """Read a dataset in three splits.

    Where it has no validation split, 20 % of its training images, stratified, become one. Its
    images without labels are the last rows of the training split.

    Args:
        name: of `DATASETS`, or package.module:name of a `DatasetReader`.
        folder: where the images are, or where torchvision's datasets are downloaded to.
        limit: of the training, test, given validation and unlabelled images, take this many each,
            spread evenly over the classes; None takes all.
        store_size: folder with mixed sizes only: side in pixels of the stored centre crop; None
            means the size of at least nine in ten images, else 256.
        image_shape: folder only: height and width in pixels to which all images are brought, as a
            cache or a student records them; None leaves it to the images.
        split_seed: of the choice of validation images; 0 where the dataset has them.
        stream: have the images read ahead instead of kept on the device (True), or not (False), or
            where they are a folder's and would take half of the machine's memory (None). A folder's
            then stay in their files, and are decoded whenever they are looked at.

    A KdcacheWarning names classes with a single training image, and images of another size than
    the others.

    Raises OptionError where there is no such dataset, or no validation images to choose by a seed;
    DataError where the images cannot be had, cannot be read or are too few to split.
    """
    reader = DATASETS.load(name)
    if not isinstance(reader, DatasetReader):
        raise OptionError(
            f"--dataset {name} to be a DatasetReader", type(reader).__name__, "correct the name"
        )
    source = reader.open(Request(folder, limit, store_size, image_shape, stream))
    check_labels(source, name)
    given = source.validation_labels is not None
    if given and split_seed:
        expected = f"no --split-seed, because the validation images in {folder} are given"
        raise OptionError(expected, f"--split-seed {split_seed}", "omit it, or remove them")
    rows = _rows_of_splits(source, split_seed)
    lengths = [len(rows[split]) for split in SPLITS]
    pixels = source.read(np.concatenate([rows[split] for split in SPLITS]))
    if not isinstance(pixels, LazyImages):
        check_pixels(pixels, sum(lengths), name)
        pixels = torch.from_numpy(pixels)
    labels = np.concatenate((*source.labels.values(), np.full(source.unlabelled, UNLABELLED)))
    splits = {}
    for split, part in zip(SPLITS, pixels.split(lengths), strict=True):
        own = rows[split]
        files = [source.files[int(row)] for row in own] if source.files else ()
        splits[split] = Split(part, torch.from_numpy(labels[own]), files)
    streamed = bool(stream) or isinstance(pixels, LazyImages)
    stored = store_size or DEFAULT_STORE_SIZE
    seed = None if given else split_seed
    return ImageData(name, source.class_names, splits, streamed, limit, stored, seed)


def _rows_of_splits(source: Source, seed: int) -> dict[str, NDArray[np.int64]]:
    """The rows of each split, in its own order."""
    rows: dict[str, NDArray[np.int64]] = {}
    first = 0
    for split, labels in source.labels.items():
        rows[split] = np.arange(first, first + len(labels))
        first += len(labels)
    expected = "at least one image in each split"
    if "validation" not in rows:
        expected = "at least two training images of some class and one test image"
        rows["validation"] = validation_rows(source.train_labels, seed)
        rows["train"] = np.setdiff1d(rows["train"], rows["validation"])
    if not all(map(len, rows.values())):
        raise DataError(
            expected,
            f"{len(source.train_labels)} training and {len(source.test_labels)} test images"
            f" in {len(source.class_names)} classes",
            "give more images or a larger --limit",
        )
    if source.validation_labels is None:
        _warn_of_single_images(source)
    unlabelled = np.arange(first, first + source.unlabelled)
    return rows | {"train": np.concatenate((rows["train"], unlabelled))}


def _warn_of_single_images(source: Source) -> None:
    counts = np.bincount(source.train_labels, minlength=len(source.class_names))
    names = [source.class_names[label] for label in np.flatnonzero(counts == 1)]
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.warn(
            f"{len(names)} of {len(counts)} classes have a single training image, so the validation"
            f" split has none of them: {shown}",
            KdcacheWarning,
            stacklevel=4,
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
    """Image files in class folders: train, test, and validation or val where there is one.

    Those in unlabelled, where there is such a folder, have no class.
    """
    folder = request.folder
    names, files, labels = ("train", "test", *_validation_folder(folder)), [], []
    if not (folder / "test").is_dir() and names[2:] == ("val",):
        names = ("train", "val")  # ImageNet's layout: the split called val is all there is
    class_names: tuple[str, ...] = ()
    for name in names:
        found, own_files, own_labels = _list_files(folder / name, request.limit)
        class_names = class_names or found
        if found != class_names:
            only = ", ".join(sorted(set(class_names) ^ set(found)))
            raise DataError(
                f"the same class folders in {folder / 'train'} and {folder / name}",
                f"only in one of them: {only}",
                "add or remove the class folders",
            )
        files += own_files
        labels.append(own_labels)
    unlabelled: list[Path] = []
    if (folder / "unlabelled").is_dir():
        unlabelled = image_files([folder / "unlabelled"])[: request.limit]
    files += unlabelled
    shape = request.image_shape or common_shape(files, request.store_size)
    lazy = request.stream
    if lazy is None:
        lazy = not fits_in_memory(len(files) * 3 * math.prod(shape))

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8] | LazyImages:
        images = LazyImages([files[row] for row in rows], shape)
        return images if lazy else images.load()

    train, test, *validation = labels
    return Source(
        class_names,
        train,
        test,
        read,
        files=[str(path) for path in files],
        validation_labels=validation[0] if validation else None,
        unlabelled=len(unlabelled),
    )


def _validation_folder(folder: Path) -> list[str]:
    """The name of the folder of validation images, if there is one."""
    there = [name for name in ("validation", "val") if (folder / name).is_dir()]
    if len(there) > 1:
        raise DataError(
            "one folder of validation images",
            f"{folder}/validation and {folder}/val",
            "remove one of them",
        )
    return there


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
