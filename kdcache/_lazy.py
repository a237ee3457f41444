"""Names that a package offers, imported when they are first used (PEP 562).

Importing torch takes seconds, and most commands need only a part of the package. So a package's
`__init__` declares what it offers in an `if TYPE_CHECKING:` block, which type checkers and readers
see, and this module imports each name when it is asked for.

A name that is offered must not be the name of one of the package's modules: as soon as that module
is imported, Python puts it where the name should be.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_exports(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package, for what the `if TYPE_CHECKING:` block in it imports."""
    homes = _declared(Path(str(sys.modules[package].__file__)))

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:  # one of its own modules
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)  # the next time it is simply there
        return value

    return load


def _declared(path: Path) -> dict[str, str]:
    """The module that each name comes from."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
