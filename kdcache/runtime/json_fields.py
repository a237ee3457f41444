"""Reads JSON objects: each field with its type, and an error that names the one that is wrong.

A record that is written for later has its own SHA-256 as its last field.
"""

import hashlib
import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

_DIGEST = "sha256"


def with_digest(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the SHA-256 of its other fields, for `check_digest`."""
    return {**document, _DIGEST: json_digest(document)}


def check_digest(document: Mapping[str, Any], known: Container[str]) -> None:
    """Raise ValueError unless an object that was read is what `with_digest` returned.

    Of one without a digest, as older versions wrote them, nothing is asked but that its fields are
    `known`: in a damaged file, the digest's own name may be what is damaged.
    """
    others = {key: value for key, value in document.items() if key != _DIGEST}
    if _DIGEST not in document:
        unknown = [key for key, value in others.items() if value is not None and key not in known]
        if unknown:
            raise ValueError(f"{unknown[0]:.40}: unknown, and there is no {_DIGEST}")
    elif document[_DIGEST] != json_digest(others):
        raise ValueError(f"{_DIGEST}: not that of the other fields, so one of them was changed")


def json_digest(document: Any) -> str:
    """SHA-256 of what a JSON document says, however it is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class JsonObject:
    """An object read from JSON.

    Fields that nobody asks for do not matter: a later version may have added them. Every method
    raises ValueError, which names the field, what was expected and what was found.

    Args:
        value: what the JSON parser returned.
        where: the object's place in the document, such as 'teacher.'; empty at the top.
    """

    def __init__(self, value: Any, where: str = "") -> None:
        if not isinstance(value, dict):
            place = where.rstrip(".") or "the file"
            raise ValueError(f"{place}: expected an object, found {value!r:.40}")
        self._fields: dict[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(key) is not None

    def object(self, key: str) -> "JsonObject":
        """A field that is an object whose fields will be read in turn."""
        return JsonObject(self._get(key), f"{self._where}{key}.")

    def objects(self, key: str) -> "list[JsonObject]":
        """A field that is a list of objects whose fields will be read in turn."""
        value = self._get(key)
        if not isinstance(value, list):
            self._refuse(key, "a list of objects")
        return [JsonObject(one, f"{self._where}{key}[{row}].") for row, one in enumerate(value)]

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A field that is an object whose fields somebody else checks."""
        value = self._get(key)
        return value if isinstance(value, dict) else self._refuse(key, "an object")

    def text(self, key: str) -> str:
        value = self._get(key)
        return value if isinstance(value, str) else self._refuse(key, "text")

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """A field that is one of some texts."""
        value = self.text(key)
        return value if value in choices else self._refuse(key, f"one of {', '.join(choices)}")

    def digest(self, key: str) -> str:
        """A field that is a SHA-256, 64 hexadecimal digits."""
        value = self.text(key)
        valid = re.fullmatch("[0-9a-f]{64}", value)
        return value if valid else self._refuse(key, "64 hexadecimal digits")

    def texts(self, key: str) -> tuple[str, ...]:
        """A field that is a list of texts, of any length."""
        value = self._get(key)
        valid = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return tuple(value) if valid else self._refuse(key, "a list of texts")

    def integer(self, key: str, low: int = 0, high: int = 2**63) -> int:
        """A field that is an integer of low..high-1; true and 1.0 are none."""
        value = self._get(key)
        if type(value) is not int or value < low:
            return self._refuse(key, f"an integer of at least {low}")
        return value if value < high else self._refuse(key, f"an integer below {high}")

    def number(self, key: str, *, finite: bool = True) -> float:
        """A field that is a number; with `finite=False` also Python's Infinity and NaN."""
        value = self._get(key)
        valid = _is_finite(value) or (not finite and type(value) is float)
        return float(value) if valid else self._refuse(key, "a number")

    def numbers(self, key: str, count: int, *, positive: bool = False) -> tuple[float, ...]:
        """A field that is a list of `count` finite numbers, above 0 with `positive`."""
        value = self._get(key)
        valid = isinstance(value, list) and len(value) == count and all(map(_is_finite, value))
        if valid and not (positive and min(value) <= 0):
            return tuple(map(float, value))
        return self._refuse(key, f"{count} numbers" + " above 0" * positive)

    def numbers_or_nulls(self, key: str) -> list[float | None]:
        """A field that is a list of finite numbers and nulls, of any length."""
        value = self._get(key)
        if isinstance(value, list) and all(one is None or _is_finite(one) for one in value):
            return [None if one is None else float(one) for one in value]
        return self._refuse(key, "a list of numbers")

    def boolean(self, key: str) -> bool:
        value = self._get(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def _get(self, key: str) -> Any:
        if key not in self._fields:
            raise ValueError(f"{self._where}{key}: missing")
        return self._fields[key]

    def _refuse(self, key: str, expected: str) -> Any:
        found = self._fields[key]
        raise ValueError(f"{self._where}{key}: expected {expected}, found {found!r:.40}")


def _is_finite(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold: JSON's integers have any length."""
    if type(value) is int:
        return abs(value) < 2**1023
    return type(value) is float and math.isfinite(value)
