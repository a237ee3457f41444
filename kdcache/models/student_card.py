"""student.json, beside a student's weights: what one must know to use them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.config import IMAGE_SIZES, INTERPOLATIONS
from kdcache.errors import DataError
from kdcache.models.preprocessing import Preprocessing
from kdcache.runtime import JsonObject, check_digest

CARD_FILE = "student.json"


@dataclass(frozen=True)
class StudentCard:
    """What a student is, and what it expects as input.

    Args:
        model: its name, as `build_model` takes it.
        small_stem: whether the model was built with the small stem.
        image_shape: (height, width) in pixels of the dataset's images, before they become the
            student's square input; None where an older version did not record it.
        fingerprint: of the cache that it was trained from; None for labels only.
        content_digest: of that cache; None where an older version did not record it, too.
    """

    preprocessing: Preprocessing
    model: str
    small_stem: bool = False
    image_shape: tuple[int, int] | None = None
    fingerprint: str | None = None
    content_digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        known = self.preprocessing
        return {
            "image_size": known.image_size,
            "interpolation": known.interpolation,
            "mean": list(known.mean),
            "std": list(known.std),
            "class_names": list(known.class_names),
            "model": self.model,
            "small_stem": self.small_stem,
            "fingerprint": self.fingerprint,
            "content_digest": self.content_digest,
            "image_shape": list(self.image_shape) if self.image_shape else None,
        }

    @classmethod
    def from_json(cls, document: Any) -> "StudentCard":
        """Raises ValueError, naming the field, where something is missing or cannot be."""
        entry = JsonObject(document)
        mean, std = entry.numbers("mean", 3), entry.numbers("std", 3, positive=True)
        shape = None
        if "image_shape" in entry:
            height, width = entry.numbers("image_shape", 2)
            whole = height.is_integer() and width.is_integer()
            if not (whole and min(height, width) > 0 and max(height, width) < 2**31):
                raise ValueError(f"image_shape: expected pixels, found {height} and {width}")
            shape = (int(height), int(width))
        image_size = entry.integer("image_size", 1, int(IMAGE_SIZES.high) + 1)
        interpolation = "bilinear"  # where an older version did not record it
        if "interpolation" in entry:
            interpolation = entry.choice("interpolation", INTERPOLATIONS)
        return cls(
            Preprocessing(image_size, mean, std, entry.texts("class_names"), interpolation),
            entry.text("model"),
            entry.boolean("small_stem") if "small_stem" in entry else False,
            shape,
            entry.text("fingerprint") if "fingerprint" in entry else None,
            entry.text("content_digest") if "content_digest" in entry else None,
        )


def read_student_card(path: Path) -> StudentCard:
    """Read a student's card. Raises DataError, naming the field, where it is missing or damaged."""
    try:
        document = json.loads(path.read_text())
        card = StudentCard.from_json(document)
        check_digest(document, card.to_json())
        return card
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path} as train_student.py writes it",
            f"{error!s:.200}" or "a file too large to read",
            "repair it or train anew",
        ) from error
