"""The package's architecture, read off its syntax: who imports whom, and what has one home.

The order of the folders stands in a comment of `kdcache/__init__.py`, and only there.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from kdcache.config import Registry

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kdcache"


@dataclass(frozen=True)
class Import:
    """One imported name: `from kdcache.cache import open_cache` is kdcache.cache, open_cache."""

    module: str
    name: str | None

    @property
    def full_name(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"


def module_name(path: Path) -> str:
    """kdcache/cache/reader.py -> kdcache.cache.reader; an `__init__` has its folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted([*PACKAGE.rglob("*.py"), *ROOT.glob("*.py")])}
MODULES = tuple(PATHS)
FACES = {name for name, path in PATHS.items() if path.name == "__init__.py"}
SCRIPTS = {name for name in MODULES if not name.startswith("kdcache")}


def order() -> list[list[str]]:
    """The floors of the package's folders, the lowest first, as the one comment says."""
    comments = re.findall(r"^# ?(.*)$", (PACKAGE / "__init__.py").read_text(), re.MULTILINE)
    (text,) = re.findall(r"errors <.*", " ".join(comments))
    return [[name.strip() for name in floor.split(",")] for floor in text.split("<")]


FLOOR_OF = {name: number for number, names in enumerate(order()) for name in names}
FLOOR_OF |= {"_lazy": -1, "__main__": len(order()), "scripts": len(order())}


def folder_of(module: str) -> str:
    """kdcache.cache.reader -> cache. The scripts are a folder of their own; the package is ''."""
    if module in SCRIPTS:
        return "scripts"
    return module.split(".")[1] if "." in module and module != "kdcache.__version__" else ""


def imported_folder(imported: Import) -> str:
    return folder_of(imported.full_name)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text())


@cache
def imports(module: str) -> tuple[Import, ...]:
    """Everything that is imported anywhere in a module."""
    found = []
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute, so that this test reads them"
            name = str(node.module)
            found += [Import(name, alias.name) for alias in node.names]
    return tuple(found)


def own_imports(module: str) -> list[Import]:
    """Those of the package itself."""
    return [one for one in imports(module) if one.module.split(".")[0] == "kdcache"]


def importers_of(package: str) -> set[str]:
    """Who imports 'PIL' or 'torchvision.datasets', or something inside it."""
    return {
        module
        for module in MODULES
        if any(f"{one.full_name}.".startswith(f"{package}.") for one in imports(module))
    }


def offered(face: str) -> set[str]:
    """The names that other folders may import from a folder."""
    if face == "kdcache.cli.commands":
        return {name.rpartition(".")[2] for name in MODULES if name.startswith(f"{face}.")}
    return {str(one.name) for one in own_imports(face) if one.module.startswith(f"{face}.")} | {
        str(one.name) for one in own_imports(face) if one.module == face
    }


class TestOrder:
    def test_every_folder_has_one_floor(self) -> None:
        placed = [name for floor in order() for name in floor]
        assert len(placed) == len(set(placed))
        entries = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
        assert set(placed) | {"_lazy", "__init__", "__main__"} == entries - {"__pycache__"}

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_imports_from_lower_floors_only(self, module: str) -> None:
        if module == "kdcache":
            return  # the public interface names everything and imports nothing
        own = folder_of(module)
        wrong = {
            one.full_name
            for one in own_imports(module)
            if imported_folder(one) not in ("", own)
            and FLOOR_OF[imported_folder(one)] >= FLOOR_OF[own]
        }
        assert wrong == set()

    @pytest.mark.parametrize("module", sorted(set(MODULES) - {"kdcache"}))
    def test_nothing_inside_uses_the_public_interface(self, module: str) -> None:
        """But the version, and folders as a whole: `from kdcache import engine`."""
        for one in own_imports(module):
            if one.module == "kdcache":
                assert one.name in (None, "__version__") or one.full_name in FACES, one

    @pytest.mark.parametrize("module", MODULES)
    def test_other_folders_are_used_through_what_they_offer(self, module: str) -> None:
        own = folder_of(module)
        wrong = set()
        for one in own_imports(module):
            if one.full_name in FACES or imported_folder(one) in ("", own, "errors", "_lazy"):
                continue
            if own == "scripts" and one.module == "kdcache.cli.commands":
                continue
            is_face = one.module == f"kdcache.{imported_folder(one)}"
            if not is_face or str(one.name) not in offered(one.module):
                wrong.add(one.full_name)
        assert wrong == set()

    @pytest.mark.parametrize("module", MODULES)
    def test_what_is_used_of_a_folder_as_a_whole_is_offered(self, module: str) -> None:
        """`from kdcache import engine` and then `engine.precompute`."""
        whole = {one.name: one.full_name for one in own_imports(module) if one.full_name in FACES}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                face = whole.get(node.value.id)
                if face is not None and f"{face}.{node.attr}" not in FACES:
                    assert node.attr in offered(face), f"{face}.{node.attr}"

    @pytest.mark.parametrize("face", sorted(FACES - {"kdcache"}))
    def test_no_folder_offers_a_name_that_one_of_its_modules_has(self, face: str) -> None:
        """Python puts an imported module in the folder's namespace, in the place of the name."""
        inside = {name.removeprefix(f"{face}.") for name in MODULES if name.startswith(f"{face}.")}
        as_modules = {str(one.name) for one in own_imports(face) if one.module == face}
        if face != "kdcache.cli.commands":
            assert (offered(face) - as_modules) & inside == set()

    def test_the_tests_above_see_what_they_look_for(self) -> None:
        targets = {imported_folder(one) for one in own_imports("kdcache.distill.teacher_targets")}
        assert targets >= {"cache", "config", "distill"}
        names = {one.full_name for one in imports("kdcache.engine.training_data")}
        assert "kdcache.cache.open_caches" in names
        assert Import("h5py", None) in imports("kdcache.cache.hdf5")
        assert "open_cache" in offered("kdcache.cache")
        assert FLOOR_OF["errors"] < FLOOR_OF["cache"] == FLOOR_OF["data"] < FLOOR_OF["cli"]


class TestSize:
    @pytest.mark.parametrize("face", sorted(FACES))
    def test_a_folder_has_at_most_nine_modules_and_says_what_it_is_for(self, face: str) -> None:
        folder = PATHS[face].parent
        assert len(list(folder.glob("[!_]*.py"))) <= 9
        words = ast.get_docstring(tree(face))
        assert words is not None
        assert words.endswith(".")

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_is_short(self, module: str) -> None:
        assert len(PATHS[module].read_text().splitlines()) <= 300


class TestOneHome:
    def test_hdf5(self) -> None:
        assert importers_of("h5py") == {"kdcache.cache.hdf5"}

    def test_tensors_are_read_without_executing_anything(self) -> None:
        """Whatever somebody else may have written: torch.load reads pickles too, if it is told."""
        found = {module for module in MODULES if loads_tensors(module)}
        assert found == {"kdcache.runtime.tensor_files"}
        assert {module for module in MODULES if imports_pickle(module)} == set()

    def test_datasets_and_image_files(self) -> None:
        assert importers_of("torchvision.datasets") == {"kdcache.data.datasets"}
        assert importers_of("PIL") == {"kdcache.data.files.decoding"}

    def test_printing(self) -> None:
        assert {module for module in MODULES if calls(module, "print")} == {"kdcache.cli.console"}

    def test_the_environment(self) -> None:
        # libhdf5, a child process and torchrun leave no other way
        assert {module for module in MODULES if names_the_environment(module)} == {
            "kdcache.cache.hdf5",
            "kdcache.cli.commands.verify",
            "kdcache.runtime.distributed",
            "kdcache.runtime.torchrun",
        }

    def test_every_choice_can_be_loaded(self) -> None:
        found = dict(registries())
        assert {"DATASETS", "LOSSES", "PROJECTIONS", "VIEW_POLICIES"} <= found.keys()
        for registry in found.values():
            assert list(registry)
            for name in registry:
                assert registry.load(name) is not None


def registries() -> Iterator[tuple[str, "Registry[object]"]]:
    """All of the package's registries, by their names."""
    for module in MODULES:
        for node in tree(module).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, value = node.target.id, node.value
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, value = node.targets[0].id, node.value
            else:
                continue
            if isinstance(value, ast.Call) and "Registry" in ast.unparse(value.func):
                yield name, getattr(importlib.import_module(module), name)


def calls(module: str, name: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for node in ast.walk(tree(module))
    )


def loads_tensors(module: str) -> bool:
    """By torch.load; safetensors, of which torch is a part's name, executes nothing."""
    called = [
        ast.unparse(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)
    ]
    return bool({"torch.load", "torch.hub.load", "numpy.load", "np.load"} & set(called))


def imports_pickle(module: str) -> bool:
    return any(
        (one.module or "").partition(".")[0] in ("pickle", "dill") for one in imports(module)
    )


def names_the_environment(module: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
        for node in ast.walk(tree(module))
    )


class TestChildren:
    """A process that the package starts runs a module of the folder that starts it."""

    @pytest.mark.parametrize("module", MODULES)
    def test_a_module_starts_one_of_its_own_folder(self, module: str) -> None:
        for started in started_modules(module):
            assert folder_of(module) in ("cache", "bench", "cli"), module
            assert folder_of(started) == folder_of(module)
            assert any(is_main_block(node) for node in tree(started).body), started

    @pytest.mark.parametrize("module", MODULES)
    def test_there_is_no_code_in_strings(self, module: str) -> None:
        assert "-c" not in {node.value for node in constants(module)}
        assert not any(calls(module, name) for name in ("exec", "eval"))

    def test_whoever_starts_a_process_is_seen(self) -> None:
        starters = {module for module in MODULES if importers_of("subprocess") & {module}}
        assert {module for module in MODULES if list(started_modules(module))} == starters


def constants(module: str) -> Iterator[ast.Constant]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant):
            yield node


def started_modules(module: str) -> Iterator[str]:
    """What follows "-m" in the lists of a module; `__name__` is the module itself."""
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.List):
            continue
        for flag, value in zip(node.elts, node.elts[1:], strict=False):
            if isinstance(flag, ast.Constant) and flag.value == "-m":
                yield ast.literal_eval(value) if isinstance(value, ast.Constant) else module


def is_main_block(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


class TestImport:
    @pytest.mark.parametrize("module", MODULES)
    def test_nothing_runs(self, module: str) -> None:
        # libhdf5 reads the variable when it is loaded, so it must be set before h5py is imported
        setting = ["os.environ['HDF5_PLUGIN_PRELOAD'] = '::'"]
        assert runs_at_import(module) == (setting if module == "kdcache.cache.hdf5" else [])

    def test_the_cache_forbids_plug_ins_before_it_imports_h5py(self) -> None:
        texts = [ast.unparse(node) for node in tree("kdcache.cache.hdf5").body]
        (setting,) = (at for at, text in enumerate(texts) if "HDF5_PLUGIN_PRELOAD" in text)
        (importing,) = (at for at, text in enumerate(texts) if text == "import h5py")
        assert setting < importing


def runs_at_import(module: str) -> list[str]:
    """Statements of a module that are more than docstrings, imports, definitions and constants."""
    found = []
    body = tree(module).body
    for position, node in enumerate(body):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
                continue
            case ast.Expr(value=ast.Constant()) if position == 0 or not isinstance(
                body[position - 1], ast.Expr
            ):
                continue  # a docstring, of the module or of the constant above
            case ast.Assign(targets=[ast.Name() | ast.Tuple()]) | ast.AnnAssign(target=ast.Name()):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.If() if is_main_block(node):
                continue
        found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_definition_is_annotated(module: str) -> None:
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
    bare = []
    for function in functions:
        if function.returns is None:
            bare.append(f"{function.name} -> ?")
        for argument in all_arguments(function):
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                bare.append(f"{function.name}({argument.arg})")
    assert bare == []


def all_arguments(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    starred = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *starred]
