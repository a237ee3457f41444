"""Mutation testing: which changes of the source does no test notice?

`python -m mutants.run` (in tests/) tries the mutants of the modules below, in random order,
against the tests that reach them, and ends with 1 where one survives that judged.toml does not
list. With `--write` it writes the results into docs/mutants.md.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mutants import report
from mutants.generate import Mutant, mutants_of
from mutants.session import (
    BROKEN,
    KILLED,
    SURVIVED,
    TIMED_OUT,
    Patched,
    Reached,
    Trace,
    in_child,
    mutant_in_file,
    read_reached,
)

ROOT = Path(__file__).parents[2]
CONTROL = "itself"  # what is changed into itself must survive
QUICK, ALL = 4.0, 20.0  # seconds of tests that a mutant has to survive at first, and at last

FOLDERS = {
    "cache": ["blocks", "checks", "hdf5", "journal", "manifest", "reader", "seal", "writer"],
    "distill": ["probe", "probe_file", "probe_solver"],
    "runs": ["continuing", "folder", "lock", "predictions", "reader", "recorder", "records"],
    "runtime": ["file_locks", "files", "json_fields", "tensor_files"],
}
MODULES = [f"kdcache/{folder}/{name}.py" for folder, names in FOLDERS.items() for name in names]
TESTS = (
    "tests/cache",
    "tests/distill/test_probe.py",
    "tests/distill/test_probe_file.py",
    "tests/distill/test_probe_solver.py",
    "tests/engine/test_best_epoch.py",
    "tests/engine/test_rerun.py",
    "tests/engine/test_resume.py",
    "tests/engine/test_several_teachers.py",
    "tests/engine/test_unlabelled.py",
    "tests/runs",
    "tests/runtime/test_files.py",
    "tests/runtime/test_json_fields.py",
    "tests/runtime/test_tensor_files.py",
    "tests/test_damaged_tensor_files.py",
)
# It starts Python anew: which lines it reaches is not known, and what survived all others is tried
# on it.
IN_A_PROCESS_OF_ITS_OWN = "tests/runtime/test_files.py::test_a_disk_that_is_full"


class Chosen:
    """A pytest plugin: only some tests, in their order."""

    def __init__(self, names: list[str]) -> None:
        self._place = {name: place for place, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._place]
        items[:] = sorted(chosen, key=lambda item: self._place[item.nodeid])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", help="such as kdcache/cache/seal.py; all by default")
    parser.add_argument("--count", type=int, help="so many mutants only, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of their order")
    parser.add_argument("--write", action="store_true", help="write docs/mutants.md anew")
    parser.add_argument(
        "--work",
        type=Path,
        help="a folder for what was found; what it says was killed is not tried again",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdcache-mutants-") as scratch:
        work = (arguments.work or Path(scratch) / "work").absolute()
        work.mkdir(parents=True, exist_ok=True)
        tree = _copy_of_the_repository(Path(scratch) / "tree")
        reached = _trace(tree, work)
        mutants = [
            mutant
            for path in arguments.modules or MODULES
            for mutant in mutants_of(path, (tree / path).read_text())
        ]
        everything = len(mutants)
        random.Random(arguments.seed).shuffle(mutants)
        mutants = mutants[: arguments.count]
        drawn = f"{len(mutants):,} of {everything:,} mutants, drawn with seed {arguments.seed}"
        print(drawn, flush=True)
        results = work / "results.jsonl"
        results.touch()
        _try_all(mutants, tree, reached, results)
        return report.conclude(results, drawn, arguments.write)


def _copy_of_the_repository(tree: Path) -> Path:
    """The files that git knows, or would, in a folder of their own, which becomes the current."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT).decode().split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), str(tree / "tests")])
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:0] = [str(tree), str(tree / "tests")]
    # What all tests need and no mutant changes: imported once, for all of the processes.
    import h5py  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import scipy.optimize  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    return tree


def _trace(tree: Path, work: Path) -> Reached:
    """Which tests reach which lines; what the folder `work` says of it is believed."""
    found, outcome = work / "reached.json", SURVIVED
    if not found.exists():
        trace = Trace(tree, MODULES, found)
        outcome = in_child(lambda: _pytest(TESTS, tree, trace), 600)
    reached, failed = read_reached(found)
    if outcome != SURVIVED or failed:
        raise SystemExit(f"without a mutant, too, these fail: {', '.join(failed) or outcome}")
    return reached


def _try_all(mutants: list[Mutant], tree: Path, reached: Reached, results: Path) -> None:
    """Functions first, in one pytest session; then, with all of it imported anew, the rest."""

    def tests_for(mutant: Mutant, limit: float) -> list[str]:
        return reached.by(mutant.path, mutant.lines if mutant.function else None, limit)

    def note(mutant: Mutant, outcome: str, seconds: float) -> None:
        if outcome == BROKEN or (mutant.new == CONTROL and outcome != SURVIVED):
            print(f"these scripts are wrong: {mutant.name} {outcome}", file=sys.stderr)
            os._exit(1)
        if mutant.new != CONTROL:
            report.note(results, mutant, outcome, seconds)

    dead = (KILLED, TIMED_OUT)
    known = report.read_results(results)
    left = [one for one in mutants if known.get(one.name) not in dead]
    in_functions = [one for one in left if one.function and known.get(one.name) is None]
    patched = [(mutant, tests_for(mutant, QUICK)) for mutant in in_functions]
    controls = [
        (replace(mutant, new=CONTROL, source=(tree / mutant.path).read_text()), names)
        for mutant, names in patched[:1]
    ]
    pid = os.fork()
    if pid == 0:
        _pytest(TESTS, tree, Patched([*controls, *patched], tree, note, reached.seconds))
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the tests cannot be collected")
    known = report.read_results(results)
    for mutant in left:
        if known.get(mutant.name) not in dead:
            started = time.monotonic()
            with mutant_in_file(tree, mutant):
                outcome = _in_a_fresh_process(mutant, tests_for(mutant, ALL), reached, tree)
            note(mutant, outcome, time.monotonic() - started)


def _in_a_fresh_process(mutant: Mutant, names: list[str], reached: Reached, tree: Path) -> str:
    """Import everything anew and run these tests."""
    if mutant.path.startswith("kdcache/runtime/"):
        own = [name for name in reached.seconds if name.startswith(IN_A_PROCESS_OF_ITS_OWN)]
        names = [*names, *(name for name in own if name not in names)]
    files = sorted({name.partition("::")[0] for name in names})
    seconds = 5 + sum(reached.seconds[name] for name in names)
    if not files:
        return SURVIVED
    return in_child(lambda: _pytest(tuple(files), tree, Chosen(names), "-x"), seconds)


def _pytest(tests: tuple[str, ...], tree: Path, plugin: object, *more: str) -> int:
    options = ["-o", "addopts=", "-q", "-p", "no:cacheprovider", f"--basetemp={tree}.tests"]
    # a mutant may also keep the tests from being collected
    return int(pytest.main([*options, *more, *tests], plugins=[plugin]) != 0)


if __name__ == "__main__":
    sys.exit(main())
