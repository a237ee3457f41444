"""student.json: what is written is read back, older cards too, and a wrong field is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdcache.errors import DataError
from kdcache.models import Preprocessing, StudentCard
from kdcache.models.student_card import read_student_card
from kdcache.runtime import with_digest

PREPROCESSING = Preprocessing(40, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("a", "b"))
CARD = StudentCard(PREPROCESSING, "resnet18", True, (32, 48), "0f" * 32)
SEALED = with_digest(CARD.to_json())


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("card", [CARD, StudentCard(PREPROCESSING, "resnet18")], ids=["all", "few"])
def test_a_card_comes_back(card: StudentCard, tmp_path: Path) -> None:
    assert read_student_card(written(tmp_path / "student.json", card.to_json())) == card


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    document = CARD.to_json() | {"colour_space": "sRGB"}
    path = written(tmp_path / "student.json", with_digest(document))
    assert read_student_card(path) == CARD


def test_a_field_that_is_neither_known_nor_vouched_for_is_refused(tmp_path: Path) -> None:
    """It may be the digest's own name that is damaged."""
    document = {"sha257" if key == "sha256" else key: value for key, value in SEALED.items()}
    with pytest.raises(DataError, match="found sha257: unknown, and there is no sha256"):
        read_student_card(written(tmp_path / "student.json", document | {"image_size": 64}))
    with pytest.raises(DataError, match="found sha256: not that of the other fields"):
        read_student_card(written(tmp_path / "student.json", SEALED | {"image_size": 64}))


def test_a_card_of_version_0_1_0_is_read() -> None:
    """It had no image shape."""
    document = {
        "image_size": 32,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "class_names": ["circle", "ring"],
        "model": "kdcache.small_resnets:resnet8",
        "small_stem": False,
        "fingerprint": None,
    }
    card = StudentCard.from_json(document)
    assert card.preprocessing.class_names == ("circle", "ring")
    assert card.model == "kdcache.small_resnets:resnet8"
    assert (card.image_shape, card.fingerprint) == (None, None)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"image_size": 0}, "image_size: expected an integer of at least 1, found 0"),
        ({"image_size": 10**7}, "image_size: expected an integer below 4097, found 10000000"),
        ({"image_size": "32"}, "image_size: expected an integer of at least 1, found '32'"),
        ({"mean": [0.5, 0.5]}, "mean: expected 3 numbers, found [0.5, 0.5]"),
        ({"std": [1, 1, 0]}, "std: expected 3 numbers above 0, found [1, 1, 0]"),
        ({"class_names": [1, 2]}, "class_names: expected a list of texts, found [1, 2]"),
        ({"model": None}, "model: expected text, found None"),
        ({"small_stem": "yes"}, "small_stem: expected true or false, found 'yes'"),
        ({"image_shape": [32]}, "image_shape: expected 2 numbers, found [32]"),
        ({"image_shape": [32, 0]}, "image_shape: expected pixels, found 32.0 and 0.0"),
        ({"image_shape": [32, 2**31]}, "image_shape: expected pixels, found 32.0 and 2147483648.0"),
        ({"image_shape": [32, 0.5]}, "image_shape: expected pixels, found 32.0 and 0.5"),
        ({"fingerprint": 3}, "fingerprint: expected text, found 3"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(change: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = written(tmp_path / "student.json", CARD.to_json() | change)
    with pytest.raises(DataError) as error:
        read_student_card(path)
    assert str(error.value) == (
        f"expected {path} as train_student.py writes it; found {fault}; repair it or train anew"
    )


@pytest.mark.parametrize("key", ["image_size", "mean", "std", "class_names", "model"])
def test_a_missing_field_is_named(key: str, tmp_path: Path) -> None:
    document = CARD.to_json()
    del document[key]
    with pytest.raises(DataError, match=f"; found {key}: missing; "):
        read_student_card(written(tmp_path / "student.json", document))


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[" * 100_000, b"\xff"],
    ids=["missing", "empty", "torn", "deep", "not UTF-8"],
)
def test_a_file_that_is_no_card(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "student.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"student.json as train_student.py writes it; found "):
        read_student_card(path)
