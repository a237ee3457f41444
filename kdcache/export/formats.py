"""The formats in which a student leaves. This module lists them without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdcache.config import Registry
from kdcache.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

FACTS_FILE = "student.json"
"""Under this name the facts (JSON text) are found inside each file."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: of its files, without the dot.
        packages: that it needs besides torch, as pip installs them.
        write: makes a file's bytes from the student, an example input float32 `(2, 3, S, S)`, and
            the facts. The model in it takes batches of any size and returns the logits alone.
        read: makes from those bytes a function from inputs float32 `(B, 3, S, S)` to logits float32
            `(B, K)`. It may copy the student's architecture, but never uses its weights.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, str], bytes]
    read: Callable[[bytes, nn.Module], Callable[[Tensor], Tensor]]


FORMATS: Registry[Format] = Registry(
    "--format",
    {
        "pt2": "kdcache.export.format_writers:PT2",
        "onnx": "kdcache.export.format_writers:ONNX",
        "safetensors": "kdcache.export.format_writers:SAFETENSORS",
    },
)


def load_format(name: str) -> Format:
    """The format called `name`.

    Raises OptionError where there is none, or a package that it needs cannot be imported.
    """
    chosen = FORMATS.load(name)
    for package in chosen.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise OptionError(
                f"the package {package} for --format {name}",
                f"none ({error})",
                f"pip install {' '.join(chosen.packages)}",
            ) from error
    return chosen
