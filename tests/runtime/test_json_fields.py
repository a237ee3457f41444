"""Each reader of a JSON field: what it takes, and how it names a field that is wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kdcache.runtime import JsonObject

DOCUMENT = json.loads(
    """{"name": "vit", "count": 3, "rate": 0.5, "whole": 2, "flag": false, "names": ["a", "b"],
    "mean": [0.5, 1, 0], "inner": {"size": 1, "deep": {}}, "nothing": null,
    "large": 9223372036854775808, "huge": 1%s, "nan": NaN, "infinite": -Infinity, "empty": []}"""
    % ("0" * 400)
)


@pytest.fixture
def entry() -> JsonObject:
    return JsonObject(DOCUMENT)


def test_fields_of_the_right_type(entry: JsonObject) -> None:
    assert entry.text("name") == "vit"
    assert entry.integer("count") == 3
    assert entry.integer("count", 3, 4) == 3
    assert entry.number("rate") == 0.5
    assert type(entry.number("whole")) is float
    assert entry.boolean("flag") is False
    assert entry.texts("names") == ("a", "b")
    assert entry.texts("empty") == ()
    assert entry.numbers("mean", 3) == (0.5, 1.0, 0.0)
    assert entry.object("inner").integer("size") == 1
    assert entry.mapping("inner") == {"size": 1, "deep": {}}
    assert entry.number("infinite", finite=False) == float("-inf")


def test_a_field_is_there_unless_it_is_null(entry: JsonObject) -> None:
    assert "flag" in entry
    assert "empty" in entry
    assert "nothing" not in entry
    assert "absent" not in entry


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (lambda entry: entry.text("absent"), "absent: missing"),
        (lambda entry: entry.text("count"), "count: expected text, found 3"),
        (lambda entry: entry.text("nothing"), "nothing: expected text, found None"),
        (lambda entry: entry.texts("name"), "name: expected a list of texts, found 'vit'"),
        (lambda entry: entry.texts("mean"), "mean: expected a list of texts, found [0.5, 1, 0]"),
        (
            lambda entry: entry.integer("rate"),
            "rate: expected an integer of at least 0, found 0.5",
        ),
        (
            lambda entry: entry.integer("flag"),
            "flag: expected an integer of at least 0, found False",
        ),
        (
            lambda entry: entry.integer("count", 4),
            "count: expected an integer of at least 4, found 3",
        ),
        (
            lambda entry: entry.integer("count", 1, 3),
            "count: expected an integer below 3, found 3",
        ),
        (
            lambda entry: entry.integer("large"),
            "large: expected an integer below 9223372036854775808, found 9223372036854775808",
        ),
        (lambda entry: entry.number("flag"), "flag: expected a number, found False"),
        (lambda entry: entry.number("nan"), "nan: expected a number, found nan"),
        (lambda entry: entry.number("infinite"), "infinite: expected a number, found -inf"),
        (
            lambda entry: entry.number("huge", finite=False),
            f"huge: expected a number, found 1{'0' * 39}",
        ),
        (lambda entry: entry.numbers("rate", 1), "rate: expected 1 numbers, found 0.5"),
        (lambda entry: entry.numbers("mean", 2), "mean: expected 2 numbers, found [0.5, 1, 0]"),
        (
            lambda entry: entry.numbers("names", 2),
            "names: expected 2 numbers, found ['a', 'b']",
        ),
        (lambda entry: entry.boolean("count"), "count: expected true or false, found 3"),
        (lambda entry: entry.mapping("mean"), "mean: expected an object, found [0.5, 1, 0]"),
        (lambda entry: entry.object("name"), "name: expected an object, found 'vit'"),
        (
            lambda entry: entry.object("inner").text("size"),
            "inner.size: expected text, found 1",
        ),
        (
            lambda entry: entry.object("inner").object("deep").text("x"),
            "inner.deep.x: missing",
        ),
        (lambda entry: JsonObject([1]), "the file: expected an object, found [1]"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_expected_and_found(
    read: Callable[[JsonObject], Any], fault: str, entry: JsonObject
) -> None:
    with pytest.raises(ValueError) as error:
        read(entry)
    assert str(error.value) == fault
