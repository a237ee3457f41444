"""What the command lines import: nothing heavy to print text or to refuse a wrong option."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run
from phases import ROOT, SHAPES, TINY_STUDENT

import train_student
from kdcache.cli import main as tools

HEAVY = {"torch", "torchvision", "h5py", "matplotlib", "numpy", "PIL", "tensorboard", "onnx"}

PROGRAM = """
import json, runpy, sys
file, *sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open(file, "w") as opened:
        json.dump(sorted(sys.modules), opened)
"""
"""Runs a script as `python SCRIPT ...` does, and leaves the names of the imported modules."""

KDCACHE = ROOT / "kdcache" / "__main__.py"
SCRIPTS = (ROOT / "precompute_teacher.py", ROOT / "train_student.py")


def imported(script: Path, tmp_path: Path, *arguments: object, code: int) -> set[str]:
    """The heavy packages that a command imports."""
    file = tmp_path / "modules.json"
    command = [sys.executable, "-c", PROGRAM, file, script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == code, finished.stderr
    return {name.split(".")[0] for name in json.loads(file.read_text())} & HEAVY


def test_the_check_sees_what_it_looks_for(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, numpy.linalg\nsys.exit(len(sys.argv))")
    assert imported(script, tmp_path, "one", code=2) == {"numpy"}


def test_the_public_interface(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import kdcache\nassert 'open_cache' in dir(kdcache)")
    assert imported(script, tmp_path, code=0) == set()


def test_the_list_of_commands(tmp_path: Path) -> None:
    assert imported(KDCACHE, tmp_path, code=0) == set()


@pytest.mark.parametrize("name", tools.COMMANDS)
def test_help(name: str, tmp_path: Path) -> None:
    assert imported(KDCACHE, tmp_path, name, "--help", code=0) == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_the_scripts(script: Path, tmp_path: Path) -> None:
    assert imported(script, tmp_path, "--help", code=0) == set()


@pytest.mark.parametrize(
    "words",
    [
        "trian",
        "precompute --no-such-option",
        "precompute --views 0",
        "train --alpha 2",
        "train --loss l3",
        "train --temperature hot",
        "info",
        "verify c.h5 --live many",
        "sweep c.h5 --alpha 2",
        "sweep c.h5 --seeds 0",
        "sweep c.h5 --set temperature=-1",
        "sweep c.h5 --set labels=teacher",
        "compare",
        "predict run image.png --top none",
        "export run",
        "bench --rounds 0",
    ],
)
def test_a_refused_option(words: str, tmp_path: Path) -> None:
    assert imported(KDCACHE, tmp_path, *words.split(), code=2) == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_refused_option_of_the_scripts(script: Path, tmp_path: Path) -> None:
    assert imported(script, tmp_path, "--seed", "-1", code=2) == set()


def test_training_begins_without_what_draws_its_pictures(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import kdcache.cli.callbacks")
    assert "matplotlib" not in imported(script, tmp_path, code=0)


def test_compare_imports_no_more_than_it_uses(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        student = [*SHAPES, *TINY_STUDENT, "--epochs", 1, "--alpha", 0, "--seed", seed]
        assert run(train_student.main, *student, "--out", tmp_path / name) == 0
    runs = [tmp_path / "one", tmp_path / "two"]
    assert imported(KDCACHE, tmp_path, "compare", *runs, code=0) == set()
    tables = ["--csv", tmp_path / "rows.csv", "--json", tmp_path / "rows.json"]
    assert imported(KDCACHE, tmp_path, "compare", *runs, *tables, code=0) == set()


def test_info_imports_no_more_than_it_uses(cache: Path, tmp_path: Path) -> None:
    tables = imported(KDCACHE, tmp_path, "info", cache, code=0)
    assert tables == {"torch", "numpy", "h5py"}
    picture = ["--soft-targets", tmp_path / "targets.png"]
    drawn = imported(KDCACHE, tmp_path, "info", cache, *picture, code=0)
    assert "matplotlib" in drawn


def test_verify_imports_no_more_than_it_uses(cache: Path, tmp_path: Path) -> None:
    shutil.copy(cache, tmp_path / "alone.h5")
    alone = imported(KDCACHE, tmp_path, "verify", tmp_path / "alone.h5", code=0)
    assert alone <= {"numpy", "h5py"}
    with_its_probe = imported(KDCACHE, tmp_path, "verify", cache, code=0)
    assert with_its_probe <= {"numpy", "h5py", "torch"}
