"""Each reader of a JSON field: what it takes, and how it names a field that is wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from kdcache.runtime import JsonObject, check_digest, with_digest

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


def test_a_list_of_objects() -> None:
    entry = JsonObject({"all": [{"size": 1}, {"size": "x"}], "one": {"size": 1}, "bad": [1]})
    first, second = entry.objects("all")
    assert first.integer("size") == 1
    with pytest.raises(ValueError, match=r"all\[1\]\.size: "):
        second.integer("size")
    with pytest.raises(ValueError, match="one: expected a list of objects"):
        entry.objects("one")
    with pytest.raises(ValueError, match=r"bad\[0\]: expected an object"):
        entry.objects("bad")


def test_the_largest_numbers() -> None:
    largest = {"most": 2**63 - 1, "float": 2**1023 - 1}
    entry = JsonObject(largest | {"more": 2**1023, "less": -(2**1023)})
    assert entry.integer("most") == 2**63 - 1
    assert entry.number("float") == 2.0**1023
    for key in ("more", "less"):
        with pytest.raises(ValueError, match=f"^{key}: expected a number, found "):
            entry.number(key)


def test_lists_with_nulls_and_of_positive_numbers() -> None:
    entry = JsonObject({"some": [1, None, 0.5], "text": ["a"], "positive": [0.5, 1e-300, 2]})
    found = entry.numbers_or_nulls("some")
    assert found == [1.0, None, 0.5] and type(found[0]) is float
    with pytest.raises(ValueError, match=r"^text: expected a list of numbers, found \['a'\]$"):
        entry.numbers_or_nulls("text")
    assert entry.numbers("positive", 3, positive=True) == (0.5, 1e-300, 2.0)
    fields = JsonObject({"zero": [0.5, 0, 1], "below": [-1, 2, 3]}, "input.")
    for key in ("zero", "below"):
        fault = f"^input.{key}: expected 3 numbers above 0, found "
        with pytest.raises(ValueError, match=fault):
            fields.numbers(key, 3, positive=True)
        assert len(fields.numbers(key, 3)) == 3


def test_choices_and_digests() -> None:
    entry = JsonObject({"kind": "b", "digest": "0f" * 32, "short": "0f" * 31, "long": "0f" * 33})
    assert entry.choice("kind", ("a", "b")) == "b" and entry.digest("digest") == "0f" * 32
    with pytest.raises(ValueError, match=r"^kind: expected one of a, c, found 'b'$"):
        entry.choice("kind", ("a", "c"))
    for key in ("short", "long", "kind"):
        with pytest.raises(ValueError, match=f"^{key}: expected 64 hexadecimal digits, found "):
            entry.digest(key)


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


class TestDigest:
    def test_it_is_the_sha256_of_the_other_fields(self) -> None:
        """By hand: printf '{"a": 1, "b": [null]}' | sha256sum."""
        digest = "3c6c12e2882d7c0f50f31bd7ad90f0491f420ce2f4bfab3e2594dac5fbfd070c"
        assert with_digest({"b": [None], "a": 1}) == {"b": [None], "a": 1, "sha256": digest}

    def test_any_layout_and_any_field_will_do(self) -> None:
        document = with_digest({"later": float("nan"), "a": {"ü": 0.1}})
        check_digest(json.loads(json.dumps(document, indent=4, sort_keys=True)), ())

    @pytest.mark.parametrize("change", [{"a": 2}, {"b": 1}, {"sha256": "0" * 64}, {"sha256": None}])
    def test_what_was_changed_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="sha256: not that of the other fields"):
            check_digest(with_digest({"a": 1}) | change, ("a", "b"))

    def test_without_one_every_field_must_be_known(self) -> None:
        check_digest({"a": 1, "gone": None}, ("a",))
        with pytest.raises(ValueError, match="b: unknown, and there is no sha256"):
            check_digest({"a": 1, "b": 2}, ("a",))
