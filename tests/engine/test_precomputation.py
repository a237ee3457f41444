"""Phase one with a cache that is there already: it is taken for the same one only if it is."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_teacher

from kdcache.cache import open_cache
from kdcache.config import PrecomputeOptions
from kdcache.data import ImageData
from kdcache.engine import precompute, prepare_teacher
from kdcache.errors import OptionError
from kdcache.models import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from kdcache.models.build import Model

Images = Callable[..., ImageData]


def fill(images: ImageData, path: Path, **changes: Any) -> bool:
    """Run phase one; whether the cache was complete already."""
    teacher = {"image_size": 16, "precision": "fp32", "shift": 0.0} | changes
    torch.manual_seed(0)
    module = tiny_teacher()
    with torch.no_grad():
        module[-1].bias += teacher["shift"]
    known = Preprocessing(teacher["image_size"], IMAGENET_MEAN, IMAGENET_STD)
    model = Model(module, "tiny", "none", known, pretrained=False)
    prepared = prepare_teacher(model, torch.device("cpu"), teacher["precision"])
    return precompute(prepared, images, PrecomputeOptions(cache=path)).already_complete


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["pixel", "label"])
def test_another_pixel_or_label_is_noticed(
    split: str, what: str, indexed_images: Images, tmp_path: Path
) -> None:
    path, other = tmp_path / "t.h5", indexed_images()
    assert not fill(indexed_images(), path)
    before = path.read_bytes()
    assert fill(indexed_images(), path)
    part = other.splits[split]
    (part.images.view(-1) if what == "pixel" else part.labels)[-1] ^= 1
    with pytest.raises(OptionError, match=f"with other ones .splits.{split}.digest: "):
        fill(other, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image_size": 8}, "input.image_size: 16 and 8"),
        ({"precision": "bf16"}, "precision: fp32 and bf16"),
        ({"shift": 1.0}, "teacher.digest: "),
    ],
    ids=str,
)
def test_another_teacher_is_noticed(
    changes: dict[str, Any], field: str, indexed_images: Images, tmp_path: Path
) -> None:
    path, images = tmp_path / "t.h5", indexed_images()
    fill(images, path)
    with pytest.raises(OptionError) as error:
        fill(images, path, **changes)
    assert field in str(error.value)


def test_a_teacher_of_which_no_cache_can_be_made_is_refused_in_one_line(
    indexed_images: Images, tmp_path: Path
) -> None:
    images = dataclasses.replace(indexed_images(), class_names=())
    with pytest.raises(OptionError) as error:
        fill(images, tmp_path / "t.h5")
    assert str(error.value) == (
        "expected a teacher and images of which a cache can be made; found dataset.class_names:"
        " expected at least one, found none; give other ones"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_cache_holds_what_the_teacher_says(indexed_images: Images, tmp_path: Path) -> None:
    fill(indexed_images(), tmp_path / "t.h5")
    fill(indexed_images(), tmp_path / "shifted.h5", shift=1.0)
    one, other = (open_cache(tmp_path / f"{name}.h5").splits["test"] for name in ("t", "shifted"))
    np.testing.assert_allclose(other.logits - 1, one.logits, atol=2e-3)
