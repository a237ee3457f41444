"""Options from a file: a TOML file with the options' names, or the config.json of a run."""

import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdcache.config.fields import Role, read_setting
from kdcache.config.options import Options
from kdcache.errors import OptionError


def read_settings(path: Path, kind: type[Options]) -> dict[str, Any]:
    """The options of `kind` that a file gives, by their names.

    Of a run's config.json, what becomes of an earlier run is left out: it is no part of the run.

    Raises OptionError where the file cannot be read, or has another name or a wrong type in it.
    """
    document = _parsed(path)
    if path.suffix == ".json":
        document = document.get("options", document)
        if not isinstance(document, dict):
            raise _fault(path, "options to be an object", f"{document!r:.60}")
        starting = kind.names(Role.START)
        document = {
            name: value
            for name, value in document.items()
            if value is not None and name not in starting
        }
    return _checked(path, document, kind)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise _fault(path, "a file that can be read", error.strerror or "none") from error
    except (ValueError, RecursionError) as error:
        language = "JSON" if path.suffix == ".json" else "TOML"
        raise _fault(path, language, f"{error}") from error
    if not isinstance(document, dict):
        raise _fault(path, "options by name", f"{document!r:.60}")
    return document


def _checked(path: Path, document: Mapping[str, Any], kind: type[Options]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    known = {item.name for item in fields(kind)}
    unknown = [name for name in document if name.replace("-", "_") not in known]
    if unknown:
        raise _fault(path, f"options of {kind.script}", ", ".join(unknown))
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name in values:
            raise _fault(path, f"{name} once", "it twice")
        try:
            values[name] = read_setting(hints[name], value)
        except ValueError as error:
            raise _fault(path, f"{key} to be {error}", f"{value!r:.60}") from error
    return values


def _fault(path: Path, expected: str, found: str) -> OptionError:
    return OptionError(f"{expected} in --config {path}", found, f"correct {path.name}")
