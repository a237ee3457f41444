"""Finds image files, in class folders or anywhere."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcache.data.files.decoding import image_suffixes
from kdcache.errors import DataError

# what file managers and archives leave beside images, beside hidden files; in lower case
_JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}


def image_files(places: Sequence[Path]) -> list[Path]:
    """Every file among `places`, and every image file below each folder, in alphabetical order.

    An image file is one whose suffix Pillow knows. What is hidden, or a file manager's, does not
    count.

    Raises DataError where a place is not there or cannot be read, or where there is no image at
    all.
    """
    found = []
    for place in places:
        if place.is_dir():
            suffixes = image_suffixes()
            found += [path for path in _files_below(place) if path.suffix.lower() in suffixes]
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


def list_classes(folder: Path) -> tuple[tuple[str, ...], list[Path], NDArray[np.int64]]:
    """Class names, files and their labels int64 `(N,)` of a folder with one folder a class.

    Everything below a class's folder is of that class. Classes and files come in alphabetical
    order. What is hidden, or a file manager's, and what lies beside the class folders, does not
    count.

    Raises DataError where there is no such folder, no class, or a class without a file.
    """
    if not folder.is_dir():
        raise DataError(
            f"a folder {folder} with one folder a class", "no such folder", "correct --data"
        )
    class_folders = [folder / entry.name for entry in _visible(folder) if entry.is_dir()]
    if not class_folders:
        raise DataError(
            f"a class folder in {folder}",
            "none",
            "correct --data, or put the images into a folder in it",
        )
    files = []
    labels = []
    for label, class_folder in enumerate(class_folders):
        members = list(_files_below(class_folder))
        if not members:
            raise DataError(f"images in {class_folder}", "none", "add images or remove the folder")
        files += members
        labels += [label] * len(members)
    return tuple(path.name for path in class_folders), files, np.array(labels, np.int64)


def _files_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files in a folder and in those in it, over links too, in alphabetical order.

    Args:
        above: the folders that this one lies in; a link back to one of them is not followed.
    """
    own = os.path.realpath(folder)
    if own in above:
        return
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _files_below(folder / entry.name, (*above, own))
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is named when it is read
            yield folder / entry.name


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and neither hidden nor a file manager's, in alphabetical order."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in _JUNK
            ]
    except OSError as error:
        raise DataError(
            "the right to read a folder of images", f"{folder}: {error.strerror}", "give another"
        ) from error
    return sorted(found, key=lambda entry: entry.name)
