"""The manifest: the record of everything that shaped a cache, and its digest, the fingerprint."""

import hashlib
import json
from typing import Any

from kdcache.config import SPLITS


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The one way a manifest is written down, so that equal manifests have equal fingerprints."""
    return json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()


def fingerprint(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(manifest_bytes(manifest)).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Where two manifests differ, as 'teacher.name: vit_b_16 and vit_b_32'."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}: {_short(one)} and {_short(other)}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:36] + " ..."


def parse_manifest(raw: bytes) -> dict[str, Any]:
    """The manifest written as `raw`.

    Raises ValueError where it is not one, or lacks what the shapes of the datasets follow from.
    """
    try:
        manifest = json.loads(raw)
        sizes = [manifest["teacher"]["classes"]]
        sizes += [manifest["splits"][split][key] for split in SPLITS for key in ("rows", "views")]
        names = manifest["dataset"]["class_names"]
        canonical = manifest_bytes(manifest) == raw  # NaN, infinity and lone surrogates cannot be written down
    except (KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError("not a manifest") from error
    if not canonical:
        raise ValueError("not as kdcache writes it")
    if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise ValueError("sizes that are not positive integers")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class names that are not text")
    return manifest
