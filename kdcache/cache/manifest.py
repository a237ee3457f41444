"""The manifest: the record of everything that shaped a cache, and its digest, the fingerprint."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from kdcache.config import (
    IMAGE_SIZES,
    INTERPOLATIONS,
    OUTPUTS,
    PRECISIONS,
    SEEDS,
    SPLITS,
    VIEW_COUNTS,
    Range,
)
from kdcache.runtime import JsonObject

# What is larger is damage or a forgery, and is refused before it is computed with.
_MOST_ROWS = 2**31
_MOST_CLASSES = 2**20
_LARGEST_SIDE = 2**15  # in pixels: views are int16
_LOGIT_BYTES = 2  # float16
_INTERPOLATIONS = tuple(f"{name}, antialiased" for name in INTERPOLATIONS)


@dataclass(frozen=True)
class DatasetRecord:
    """Which images.

    `image_shape` is (height, width) in pixels; `limit` the number of images that were taken, None
    for all; `store_size` the side in pixels at which an image folder's images are stored, None for
    other datasets; `split_seed` that of the choice of validation images, None where the dataset has
    them.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int]
    limit: int | None
    store_size: int | None
    split_seed: int | None


@dataclass(frozen=True)
class SplitRecord:
    """One split: its images, the views of each, and the SHA-256 of its pixels and labels."""

    rows: int
    views: int
    digest: str


@dataclass(frozen=True)
class TeacherRecord:
    """Which teacher.

    `digest` is the SHA-256 of its state dict; `output`, of `OUTPUTS`, is what is stored of each
    view, and `classes` how many numbers that are; `class_names` is None where they are not known.
    """

    name: str
    weights: str
    digest: str
    classes: int
    class_names: tuple[str, ...] | None
    output: str = "logits"


@dataclass(frozen=True)
class InputRecord:
    """How an image becomes the teacher's input.

    `image_size` is the side in pixels of the square input; `interpolation`, with antialiasing, is
    of `INTERPOLATIONS`; `mean` and `std` are those of the channels, on the scale 0 to 1.
    """

    image_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ViewsRecord:
    """How views 1, 2, ... of the training images were drawn."""

    augment: str
    seed: int


@dataclass(frozen=True)
class Manifest:
    """Everything that shaped a cache.

    `document` is the manifest as it is written down, with whatever a later version may have added
    to it: fingerprint and comparisons are those of the document. The other fields are what this
    version knows of it.
    """

    dataset: DatasetRecord
    splits: dict[str, SplitRecord]
    teacher: TeacherRecord
    input: InputRecord
    views: ViewsRecord
    precision: str
    software: dict[str, str]
    document: dict[str, Any]

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Manifest":
        """The manifest of a JSON object.

        Raises ValueError, naming the field, where something is missing or cannot be.
        """
        top = JsonObject(document)
        splits = top.object("splits")
        software = top.object("software")
        return cls(
            _dataset(top.object("dataset")),
            {name: _split(splits.object(name)) for name in SPLITS},
            _teacher(top.object("teacher")),
            _input(top.object("input")),
            _views(top.object("views")),
            top.choice("precision", PRECISIONS[1:]),
            {name: software.text(name) for name in ("torch", "torchvision", "device", "compile")},
            document,
        )

    @classmethod
    def parse(cls, raw: bytes) -> "Manifest":
        """The manifest written as `raw`.

        Raises ValueError where it is not one, or is not written as `to_bytes` writes it.
        """
        try:
            document = json.loads(raw)
            canonical = _canonical(document) == raw  # NaN and lone surrogates have no bytes
        except (TypeError, RecursionError, ValueError) as error:
            raise ValueError("not JSON as kdcache writes it") from error
        if not canonical:
            raise ValueError("not JSON as kdcache writes it")
        return cls.from_json(document)

    def to_bytes(self) -> bytes:
        """The one way a manifest is written down: equal manifests have equal fingerprints."""
        return _canonical(self.document)

    @property
    def row_bytes(self) -> int:
        """Bytes of one view's logits."""
        return self.teacher.classes * _LOGIT_BYTES

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `to_bytes`, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def differences(self, other: "Manifest") -> list[str]:
        """Where two manifests differ, as 'teacher.name: vit_b_16 and vit_b_32'."""
        return _differences(self.document, other.document)


def _dataset(entry: JsonObject) -> DatasetRecord:
    shape = entry.numbers("image_shape", 2)
    if not all(side.is_integer() and 0 < side < _LARGEST_SIDE for side in shape):
        raise ValueError(f"dataset.image_shape: expected height and width in pixels, found {shape}")
    class_names = entry.texts("class_names")
    if not class_names:
        raise ValueError("dataset.class_names: expected at least one, found none")
    return DatasetRecord(
        entry.text("name"),
        class_names,
        (int(shape[0]), int(shape[1])),
        entry.integer("limit", 1) if "limit" in entry else None,
        entry.integer("store_size", 1, _LARGEST_SIDE) if "store_size" in entry else None,
        _integer(entry, "split_seed", SEEDS) if "split_seed" in entry else None,
    )


def _split(entry: JsonObject) -> SplitRecord:
    return SplitRecord(
        entry.integer("rows", 1, _MOST_ROWS),
        _integer(entry, "views", VIEW_COUNTS),
        entry.digest("digest"),
    )


def _teacher(entry: JsonObject) -> TeacherRecord:
    classes = entry.integer("classes", 1, _MOST_CLASSES + 1)
    names = entry.texts("class_names") if "class_names" in entry else None
    if names is not None and len(names) != classes:
        raise ValueError(f"teacher.class_names: expected {classes}, found {len(names)}")
    output = entry.choice("output", OUTPUTS) if "output" in entry else "logits"
    if output != "logits" and names is not None:
        raise ValueError(f"teacher.class_names: expected null for {output}, found {classes}")
    return TeacherRecord(
        entry.text("name"), entry.text("weights"), entry.digest("digest"), classes, names, output
    )


def _input(entry: JsonObject) -> InputRecord:
    return InputRecord(
        _integer(entry, "image_size", IMAGE_SIZES),
        entry.choice("interpolation", _INTERPOLATIONS).partition(",")[0],
        entry.numbers("mean", 3),
        entry.numbers("std", 3, positive=True),
    )


def _views(entry: JsonObject) -> ViewsRecord:
    return ViewsRecord(entry.text("augment"), _integer(entry, "seed", SEEDS))


def _integer(entry: JsonObject, key: str, within: Range) -> int:
    """A field with the values that phase one's option of the same meaning accepts."""
    return entry.integer(key, int(within.low), int(within.high) + 1)


def _canonical(document: dict[str, Any]) -> bytes:
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode()


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}: {_short(one)} and {_short(other)}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:36] + " ..."
