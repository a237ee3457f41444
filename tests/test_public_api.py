"""What `import kdcache` offers: all of it can be used, all of it is described, and nothing else."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import kdcache
from kdcache import errors

SOURCE = Path(str(kdcache.__file__))
FOLDERS = {path.name for path in SOURCE.parent.iterdir() if (path / "__init__.py").exists()}


def test_the_list_is_literal_and_sorted_and_shown() -> None:
    tree = ast.parse(SOURCE.read_text())
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert listed == kdcache.__all__
    assert len(set(listed)) == len(listed)
    assert set(dir(kdcache)) == set(listed)


@pytest.mark.parametrize("name", kdcache.__all__)
def test_every_name_is_there_and_described(name: str) -> None:
    value = getattr(kdcache, name)
    assert value is getattr(kdcache, name), "the same object each time"
    if name != "__version__":
        assert inspect.getdoc(value)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == name
        assert value.__doc__, "of its own, not its base's"


@pytest.mark.parametrize("name", kdcache.__all__)
def test_no_folder_or_module_has_the_same_name(name: str) -> None:
    assert name not in FOLDERS | {path.stem for path in SOURCE.parent.glob("[!_]*.py")}


def test_what_is_offered_is_declared_for_type_checkers() -> None:
    (block,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    declared = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared | {"__version__"} == set(kdcache.__all__)
    assert (SOURCE.parent / "py.typed").exists()


def test_what_is_not_offered_says_so() -> None:
    with pytest.raises(AttributeError, match="module 'kdcache' has no attribute 'opencache'"):
        kdcache.opencache  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("kdcache.opencache")


def test_every_kind_of_error_is_offered() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.KdcacheError)
    }
    assert kinds <= set(kdcache.__all__)


def test_everything_can_be_imported_at_once() -> None:
    names: dict[str, object] = {}
    exec("from kdcache import *", names)
    assert set(kdcache.__all__) <= names.keys()
