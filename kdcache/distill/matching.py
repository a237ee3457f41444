"""The images that a cache was made from: reads them, and compares every one with the cache."""

from pathlib import Path

import numpy as np

from kdcache.cache import Cache
from kdcache.config import is_import_path
from kdcache.data import ImageData, load_images
from kdcache.errors import DataError, OptionError


def load_images_of(
    cache: Cache, folder: Path, *, dataset: str | None = None, stream: bool | None = None
) -> ImageData:
    """Read from `folder` the images that a cache was made from, split as they were then.

    Args:
        dataset: the dataset's name, where it is to be checked. A dataset of the user's own,
            `package.module:name`, is code: it runs only where its name is given here, too, and not
            because a file names it.
        stream: as in `load_images`.

    Raises OptionError where the name is another, DataError where the images are not there, or are
    not these.
    """
    recorded = cache.manifest.dataset
    if dataset not in (None, recorded.name):
        expected = f"--dataset {recorded.name}, as in {cache.path}"
        raise OptionError(expected, str(dataset), "omit --dataset")
    if dataset is None and is_import_path(recorded.name):
        expected = f"--dataset {recorded.name} on the command line, before that code is run"
        raise OptionError(expected, f"only {cache.path} naming it", "give it if you trust the code")
    images = load_images(
        recorded.name,
        folder,
        limit=recorded.limit,
        image_shape=recorded.image_shape,
        split_seed=recorded.split_seed,
        stream=stream,
    )
    check_images_match(cache, images)
    return images


def check_images_match(cache: Cache, images: ImageData) -> None:
    """Raise DataError unless the cache was made from these images, labels and order."""
    expected = cache.manifest.dataset.class_names
    if images.class_names != expected:
        raise DataError(
            f"the classes {', '.join(expected[:10])}",
            ", ".join(images.class_names[:10]),
            "correct --data",
        )
    for split, part in images.splits.items():
        cached = cache.splits[split]
        if len(part) != len(cached):
            raise DataError(
                f"{len(cached)} {split} images, as {cache.path} was made from",
                f"{len(part)}",
                "correct --data",
            )
        differing = np.flatnonzero(part.row_checksums() != cached.image_crc32)
        if len(differing):
            row = differing[0]
            first = f"{split} row {row}" + (f" ({part.files[row]})" if part.files else "")
            raise DataError(
                f"the images that {cache.path} was made from",
                f"{len(differing)} other images or labels, the first in {first}",
                "correct --data, or run phase one on these images",
            )
