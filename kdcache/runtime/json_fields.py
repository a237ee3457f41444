"""Reading JSON objects from files: each field with its type, and an error that names the field that is wrong."""

import math
from collections.abc import Mapping
from typing import Any


class JsonObject:
    """An object read from JSON. Fields that nobody asks for do not matter: a later version may have added them.

    Every method raises ValueError, saying which field is wrong, what was expected and what was found.

    Args:
        value: what the JSON parser returned.
        where: the object's place in the document, 'teacher.'; empty at the top.
    """

    def __init__(self, value: Any, where: str = "") -> None:
        if not isinstance(value, dict):
            raise ValueError(
                f"{where.rstrip('.') or 'the file'}: expected an object, found {value!r:.40}"
            )
        self._fields: dict[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self._fields.get(key) is not None

    def object(self, key: str) -> "JsonObject":
        return JsonObject(self._get(key), f"{self._where}{key}.")

    def text(self, key: str) -> str:
        value = self._get(key)
        return value if isinstance(value, str) else self._refuse(key, "text")

    def integer(self, key: str, low: int = 0, high: int = 2**63) -> int:
        value = self._get(key)
        fits = type(value) is int and low <= value < high
        return value if fits else self._refuse(key, f"an integer of at least {low}")

    def number(self, key: str, *, finite: bool = True) -> float:
        value = self._get(key)
        fits = type(value) in (int, float) and (math.isfinite(value) or not finite)
        return float(value) if fits else self._refuse(key, "a number")

    def boolean(self, key: str) -> bool:
        value = self._get(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._get(key)
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return tuple(value) if fits else self._refuse(key, "a list of texts")

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        value = self._get(key)
        fits = isinstance(value, list) and len(value) == count
        if not fits or not all(type(one) in (int, float) and math.isfinite(one) for one in value):
            return self._refuse(key, f"{count} numbers")
        return tuple(float(one) for one in value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """An object whose fields are somebody else's affair."""
        value = self._get(key)
        return value if isinstance(value, dict) else self._refuse(key, "an object")

    def _get(self, key: str) -> Any:
        if key not in self._fields:
            raise ValueError(f"{self._where}{key}: missing")
        return self._fields[key]

    def _refuse(self, key: str, expected: str) -> Any:
        found = self._fields[key]
        raise ValueError(f"{self._where}{key}: expected {expected}, found {found!r:.40}")
