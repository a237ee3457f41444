"""The manifest: each record is read or the wrong field is named; all is in the fingerprint."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_makers import (
    canonical,
    forge_manifest,
    make_manifest,
    manifest_document,
    replace_in_manifest,
)

from kdcache.cache.manifest import Manifest
from kdcache.cache.reader import open_cache
from kdcache.errors import CacheDamagedError

MAY_BE_NULL = {
    "dataset.limit",
    "dataset.store_size",
    "dataset.split_seed",
    "teacher.class_names",
}


def paths(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """'dataset', 'dataset.name', ...: every record and every field."""
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{key}.")


PATHS = tuple(paths(manifest_document()))


def parent_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    """The object that holds the field."""
    for key in path.split(".")[:-1]:
        document = document[key]
    return document


def changed(path: str, value: Any) -> dict[str, Any]:
    document = manifest_document()
    parent_of(document, path)[path.split(".")[-1]] = value
    return document


class TestFromJson:
    def test_every_record_is_read(self) -> None:
        document = manifest_document((40, 20, 10), views=3, classes=12)
        document["dataset"] |= {"limit": 70, "store_size": 64}
        document["teacher"]["class_names"] = list("abcdefghijkl")
        manifest = Manifest.from_json(document)
        dataset = manifest.dataset
        assert (dataset.name, dataset.class_names) == ("indexed", ("eins", "zwei"))
        assert (dataset.image_shape, dataset.limit) == ((32, 48), 70)
        assert (dataset.store_size, dataset.split_seed) == (64, 0)
        sizes = {name: (split.rows, split.views) for name, split in manifest.splits.items()}
        assert sizes == {"train": (40, 3), "validation": (20, 1), "test": (10, 1)}
        assert [split.digest[:2] for split in manifest.splits.values()] == ["00", "11", "22"]
        teacher = manifest.teacher
        assert (teacher.name, teacher.weights, teacher.classes) == ("Lehrkörper", "none", 12)
        assert (teacher.digest, teacher.class_names) == ("a" * 64, tuple("abcdefghijkl"))
        assert (manifest.input.image_size, manifest.input.mean) == (32, (0.5, 0.25, 0.125))
        assert manifest.input.interpolation == "bilinear"
        assert manifest.input.std == (0.25, 0.5, 1.0)
        assert (manifest.views.augment, manifest.views.seed) == ("crop-flip", 7)
        assert manifest.precision == "fp32"
        assert manifest.software == document["software"]
        assert manifest.document == document

    def test_these_are_all_the_fields(self) -> None:
        """7 records and fields of the manifest, 6 + 3 + 9 + 5 + 4 + 2 + 4 of its records."""
        assert len(PATHS) == 7 + 33

    @pytest.mark.parametrize("path", PATHS)
    def test_a_missing_field_is_named(self, path: str) -> None:
        document = manifest_document()
        del parent_of(document, path)[path.split(".")[-1]]
        if path in MAY_BE_NULL:
            assert Manifest.from_json(document)
        else:
            with pytest.raises(ValueError, match=rf"^{path}: missing$"):
                Manifest.from_json(document)

    @pytest.mark.parametrize("path", PATHS)
    def test_a_field_of_another_type_is_named(self, path: str) -> None:
        record = isinstance(parent_of(manifest_document(), path)[path.split(".")[-1]], dict)
        with pytest.raises(ValueError, match=rf"^{path}: expected .*, found "):
            Manifest.from_json(changed(path, 7 if record else {"seven": 7}))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("splits.train.rows", 0),
            ("splits.train.rows", -4),
            ("splits.validation.rows", True),
            ("splits.test.rows", 1.0),
            ("splits.train.rows", 2**31),
            ("splits.train.views", 0),
            ("splits.test.views", 10**30),
            ("splits.test.views", 1001),
            ("splits.test.digest", "0" * 63),
            ("splits.test.digest", "G" * 64),
            ("teacher.digest", "A" * 64),
            ("teacher.classes", 0),
            ("teacher.classes", 2**20 + 1),
            ("teacher.class_names", ["a", 1]),
            ("teacher.class_names", ["a", "b"]),
            ("teacher.output", "tokens"),
            ("input.interpolation", "nearest"),
            ("dataset.class_names", []),
            ("dataset.store_size", 2**15),
            ("dataset.split_seed", 2**32),
            ("dataset.image_shape", [32, 2**15]),
            ("input.image_size", 4097),
            ("input.image_size", 10**7),
            ("input.std", [0.5, 0.5, 0]),
            ("views.seed", 2**32),
            ("precision", "auto"),
            ("precision", "fp8"),
            ("dataset.class_names", [None]),
            ("dataset.image_shape", [32]),
            ("dataset.image_shape", [32, 0]),
            ("dataset.image_shape", [32.5, 32]),
            ("dataset.image_shape", [32, 2**31]),
            ("dataset.image_shape", [32, 10**400]),
            ("dataset.limit", 0),
            ("dataset.store_size", -1),
            ("dataset.split_seed", -1),
            ("input.image_size", 0),
            ("input.image_size", 2**31),
            ("input.mean", [0.5, 0.5]),
            ("input.std", [0.5, 0.5, "0.5"]),
            ("input.std", [0.5, 0.5, float("nan")]),
            ("views.seed", -1),
        ],
    )
    def test_a_value_that_cannot_be_is_named(self, path: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"^{path}: expected "):
            Manifest.from_json(changed(path, value))

    def test_features_are_no_classes_and_have_no_names(self) -> None:
        document = manifest_document()
        document["teacher"] |= {"output": "features"}
        assert Manifest.from_json(document).teacher.output == "features"
        assert make_manifest().teacher.output == "logits"
        document["teacher"]["class_names"] = ["a", "b", "c"]
        words = "^teacher.class_names: expected null for features, found 3$"
        with pytest.raises(ValueError, match=words):
            Manifest.from_json(document)

    def test_the_largest_values_are_allowed(self) -> None:
        document = manifest_document()
        document["splits"]["train"] |= {"rows": 2**31 - 1, "views": 1000}
        document["teacher"]["classes"] = 2**20
        document["dataset"] |= {"image_shape": [1, 2**15 - 1], "split_seed": 2**32 - 1}
        document["input"]["image_size"] = 4096
        document["dataset"] |= {"store_size": 2**15 - 1}
        manifest = Manifest.from_json(document)
        assert manifest.row_bytes == 2**21 and manifest.input.image_size == 4096

    def test_so_are_the_smallest(self) -> None:
        document = manifest_document((1, 1, 1), views=1, classes=1)
        document["dataset"] |= {"limit": 1, "store_size": 1, "image_shape": [1, 1]}
        document["dataset"]["class_names"] = ["one"]
        document["teacher"]["class_names"] = ["one"]
        document["input"] |= {"image_size": 1, "std": [1e-9, 1e-9, 1e-9]}
        manifest = Manifest.from_json(document)
        assert manifest.row_bytes == 2 and manifest.dataset.image_shape == (1, 1)

    @pytest.mark.parametrize("document", [None, 7, [], "manifest"])
    def test_something_else_than_an_object_is_refused(self, document: Any) -> None:
        with pytest.raises(ValueError, match="expected an object"):
            Manifest.from_json(document)


class TestWrittenDown:
    def test_what_is_written_is_parsed(self) -> None:
        manifest = make_manifest((40, 20, 10), views=3, classes=12)
        assert Manifest.parse(manifest.to_bytes()) == manifest

    def test_the_fingerprint_is_the_digest_of_the_sorted_indented_json(self) -> None:
        manifest = make_manifest()
        assert manifest.to_bytes() == canonical(manifest_document())
        assert manifest.fingerprint == hashlib.sha256(canonical(manifest_document())).hexdigest()

    def test_fingerprints_of_equal_manifests_are_equal_whatever_the_order(self) -> None:
        manifest = make_manifest()
        turned = Manifest.from_json(dict(reversed(manifest_document().items())))
        assert turned.fingerprint == manifest.fingerprint
        assert make_manifest(views=3).fingerprint != manifest.fingerprint

    @pytest.mark.parametrize(
        "raw",
        [
            json.dumps(manifest_document()).encode(),
            canonical(manifest_document()) + b"\n",
            canonical(changed("input.mean", [float("nan"), 0, 0])),
            canonical(changed("input.mean", [float("inf"), 0, 0])),
            canonical(manifest_document()).replace(b'"fp32"', b'"\\ud800"'),
            canonical(manifest_document()).decode().encode("latin-1"),
            b"[" * 100_000,
            b"",
        ],
        ids=[
            "in one line",
            "a line more",
            "NaN",
            "infinity",
            "lone surrogate",
            "not UTF-8",
            "deep",
            "nothing",
        ],
    )
    def test_what_kdcache_would_write_otherwise_is_refused(self, raw: bytes) -> None:
        with pytest.raises(ValueError, match=r"^not JSON as kdcache writes it$"):
            Manifest.parse(raw)


class TestLaterVersions:
    @pytest.mark.parametrize(
        "path", ["more", "dataset.more", "splits.more", "splits.train.more", "teacher.more"]
    )
    def test_an_unknown_field_is_ignored_but_is_in_the_fingerprint(self, path: str) -> None:
        known = make_manifest()
        later = Manifest.from_json(changed(path, {"a": [1]}))
        for record in ("dataset", "splits", "teacher", "input", "views", "precision", "software"):
            assert getattr(later, record) == getattr(known, record)
        assert later.fingerprint != known.fingerprint
        assert later != known
        assert known.differences(later) == [f"{path}: None and {{'a': [1]}}"]
        assert Manifest.parse(later.to_bytes()).document == changed(path, {"a": [1]})

    def test_a_cache_with_one_opens(self, good_path: Path) -> None:
        document = changed("software.cuda", "13.2")
        forge_manifest(good_path, document)
        cache = open_cache(good_path)
        assert cache.manifest.document["software"]["cuda"] == "13.2"
        assert cache.fingerprint == cache.manifest.fingerprint != make_manifest().fingerprint


def test_differences_are_told_by_path_and_shortened() -> None:
    old, new = manifest_document(), manifest_document()
    old["splits"]["train"] |= {"rows": 4, "views": 2, "digest": "c" * 64}
    new["splits"]["train"] |= {"rows": 4, "views": 3, "digest": "d" * 64}
    old["gone"] = True
    new["same"] = old["same"] = [1]
    old["long"], new["long"] = "x" * 40, "y" * 41
    assert Manifest.from_json(old).differences(Manifest.from_json(new)) == [
        "gone: True and None",
        f"long: {'x' * 40} and {'y' * 36} ...",
        f"splits.train.digest: {'c' * 36} ... and {'d' * 36} ...",
        "splits.train.views: 2 and 3",
    ]


@pytest.mark.parametrize("path", PATHS)
def test_no_field_is_left_out_of_the_comparison(path: str) -> None:
    known, other = make_manifest(), make_manifest()
    record = parent_of(other.document, path)
    record[path.split(".")[-1]] = "another"
    found = known.differences(other)
    assert found and all(one.startswith(path) for one in found)
    assert known.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{", b"["),
        (b'"rows": 4', b'"rows":-4'),
        (b'"classes": 3', b'"classes": 0'),
        (b'"classes": 3', b'"classes":{}'),
        (b'"splits"', b'"splitz"'),
        (b'"eins"', b"314159"),
    ],
    ids=str,
)
def test_a_forged_manifest_is_refused(old: bytes, new: bytes, good_path: Path) -> None:
    replace_in_manifest(good_path, old, new)
    with pytest.raises(CacheDamagedError, match=rf"found {good_path} damaged in its manifest \("):
        open_cache(good_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("splits.train.rows", 2**31),
        ("splits.train.views", 2**64),
        ("teacher.classes", 10**30),
        ("dataset.image_shape", [2**40, 32]),
        ("input.image_size", 2**31),
        ("dataset.image_shape", [10**50, 1]),
    ],
)
def test_the_field_of_a_forged_size_is_named(path: str, value: Any, good_path: Path) -> None:
    forge_manifest(good_path, changed(path, value))
    with pytest.raises(CacheDamagedError, match=rf"damaged in its manifest \({path}: expected "):
        open_cache(good_path)
