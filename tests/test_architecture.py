"""The package's architecture, read off its syntax: who may import whom, and what must happen nowhere else."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kdcache"

FLOORS = (
    "errors logistic streams arithmetic memory profiling __init__",
    "config views losses mixing projection seal shapes distributed small_resnets supply "
    "report comparison significance outcomes svg stylesheet pixel_file",
    "manifest folders checkpoint models console model_card charts measurement",
    "images cache formats",
    "finished_run runs",
    "writer targets teacher batches loss_watch export predict groups",
    "precompute training recipe dataset live score_exhibits",
    "training_data inspection answer_exhibits",
    "student_run",
    "pictures webpage baseline",
    "sweep bench_setup",
    "bench_models",
    "bench",
    "__main__",
    "precompute_teacher train_student",
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules.split()}
MODULES = sorted(path.stem for path in PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


@cache
def tree(module: str) -> ast.Module:
    folder = ROOT if module in SCRIPTS else PACKAGE
    return ast.parse((folder / f"{module}.py").read_text())


def imported(module: str) -> set[str]:
    """Full names of everything that is imported anywhere in a module: 'kdcache.cache.open_cache'."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{module}: imports are absolute, so that this test can read them"
            )
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(module: str) -> set[str]:
    """Modules of the package that a module imports from."""
    parts = [name.split(".") for name in imported(module) if name.split(".")[0] == "kdcache"]
    return {name[1] if name[1] in FLOOR_OF else "__init__" for name in parts if len(name) > 1} | {
        "__init__" for name in parts if len(name) == 1
    }


def importers_of(*packages: str) -> set[str]:
    """Who imports one of these: 'PIL', 'torchvision.datasets'."""
    return {
        module
        for module in MODULES + SCRIPTS
        if any(
            f"{name}.".startswith(f"{package}.")
            for name in imported(module)
            for package in packages
        )
    }


def test_every_module_has_one_floor() -> None:
    placed = " ".join(FLOORS).split()
    assert sorted(placed) == sorted(MODULES + SCRIPTS)


@pytest.mark.parametrize("module", FLOOR_OF)
def test_a_module_imports_from_lower_floors_only(module: str) -> None:
    assert {
        name: FLOOR_OF[name]
        for name in imported_modules(module)
        if FLOOR_OF[name] >= FLOOR_OF[module]
    } == {}


def test_hdf5_has_one_home() -> None:
    assert importers_of("h5py") == {"cache"}


def test_datasets_and_image_files_have_one_home() -> None:
    assert importers_of("torchvision.datasets") == {"images"}
    assert importers_of("PIL") == {"folders"}


def test_the_syntax_tests_see_what_they_look_for() -> None:
    assert imported_modules("targets") >= {"cache", "errors", "models"}
    assert "kdcache.cache.open_cache" in imported("training_data") and "h5py" in imported("cache")


def calls(module: str, name: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
        for node in ast.walk(tree(module))
    )


def test_only_the_console_prints() -> None:
    assert {module for module in MODULES + SCRIPTS if calls(module, "print")} == {"console"}


def names_the_environment(module: str) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
        for node in ast.walk(tree(module))
    )


def test_only_cache_and_distributed_touch_the_environment() -> None:
    # libhdf5 and torchrun leave no other way
    assert {module for module in MODULES + SCRIPTS if names_the_environment(module)} == {
        "cache",
        "distributed",
    }


def runs_at_import(module: str) -> list[str]:
    """Statements at module level that are more than a docstring, an import, a definition or a named constant."""
    found = []
    for position, node in enumerate(tree(module).body):
        match node:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
                continue
            case ast.Expr(value=ast.Constant()) if position == 0 or not isinstance(
                tree(module).body[position - 1], ast.Expr
            ):
                continue  # a docstring, of the module or of the constant above
            case ast.Assign(targets=[ast.Name() | ast.Tuple()]) | ast.AnnAssign(target=ast.Name()):
                continue
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
        found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("module", MODULES + SCRIPTS)
def test_nothing_runs_at_import(module: str) -> None:
    # libhdf5 reads the variable when it is loaded, so the cache must set it before it imports h5py
    expected = ["os.environ['HDF5_PLUGIN_PRELOAD'] = '::'"] if module == "cache" else []
    assert runs_at_import(module) == expected


def test_the_cache_forbids_plug_ins_before_it_imports_h5py() -> None:
    body = tree("cache").body
    (setting,) = (
        place for place, node in enumerate(body) if "HDF5_PLUGIN_PRELOAD" in ast.unparse(node)
    )
    (importing,) = (place for place, node in enumerate(body) if ast.unparse(node) == "import h5py")
    assert setting < importing


@pytest.mark.parametrize("module", MODULES + SCRIPTS)
def test_every_public_definition_is_annotated(module: str) -> None:
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
    bare = [
        f"{function.name}({argument.arg})"
        for function in functions
        for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if argument.annotation is None and argument.arg not in ("self", "cls")
    ]
    assert (
        bare + [f"{function.name} -> ?" for function in functions if function.returns is None] == []
    )
