"""The distributions: the wheel holds the whole package, the source distribution everything."""

import configparser
import email
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOWEST = ROOT / "requirements" / "lowest.txt"
PACKAGE = ROOT / "kdcache"

BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""
"""What pip and `python -m build` call, in this environment, so that nothing is downloaded."""

FOLDERS = ("kdcache", "tests", "docs", "requirements", ".ci")
FILES = ("", ".py", ".md", ".txt", ".toml", ".in", ".yaml")
"""What is copied: not a cache that somebody has made beside it."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy of what is here."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and path.suffix in FILES:
            shutil.copy(path, source)
        elif path.name in FOLDERS:
            shutil.copytree(path, source / path.name)
    (folder / "dist").mkdir()
    command = [sys.executable, "-c", BUILD, folder / "dist"]
    finished = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "Deprecat" not in finished.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("kdcache-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_the_wheel_holds_every_module_and_its_data_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert "kdcache/py.typed" in held
    assert "kdcache/cli/commands/train.py" in held


def test_the_command_leads_to_a_function(wheel: zipfile.ZipFile) -> None:
    entries = configparser.ConfigParser()
    entries.read_string(read(wheel, "entry_points.txt"))
    assert dict(entries["console_scripts"]) == {"kdcache": "kdcache.cli.main:entry_point"}
    module, _, name = entries["console_scripts"]["kdcache"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_string(read(wheel, "METADATA"))
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert read(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text()
    assert metadata["Requires-Python"] == ">=3.11"
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">")[0].lower() for line in needed} == {
        "torch", "torchvision", "h5py", "numpy", "pillow", "tqdm", "matplotlib",
    }  # fmt: skip


def test_the_source_distribution_holds_everything(built: Path) -> None:
    (path,) = built.glob("kdcache-*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "precompute_teacher.py", "train_student.py", "pyproject.toml", "Makefile", "README.md",
        "CHANGELOG.md", "LICENSE", "requirements/locked.txt", ".ci/run", ".pre-commit-config.yaml",
        "tests/conftest.py", "tests/cli/conftest.py", "docs/format.md", "docs/evidence.py",
        "kdcache/py.typed", "kdcache/__main__.py",
    }  # fmt: skip
    assert wanted <= held
    for folder in ("tests", "docs", "kdcache"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                assert str(path.relative_to(ROOT)) in held
    assert not [name for name in held if "__pycache__" in name]


def test_the_lowest_versions_that_are_declared_are_those_that_are_tried() -> None:
    declared = re.findall(r'"([A-Za-z_]+)>=([0-9.]+)"', (ROOT / "pyproject.toml").read_text())
    tried = dict(re.findall(r"^(\S+)==(\S+)", LOWEST.read_text(), re.MULTILINE))
    for name, version in declared:
        if name == "setuptools":  # what builds the package, not what it runs with
            continue
        pinned = tried[name.lower().replace("_", "-")]
        assert pinned.removesuffix(".0").startswith(version.removesuffix(".0")), name


def test_every_locked_package_has_hashes() -> None:
    for file in ("locked.txt", "dev.txt", "lowest.txt"):
        text = (ROOT / "requirements" / file).read_text()
        pins = re.findall(r"^\S+==[^\n]*\n    --hash=sha256:", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^\S+==", text, re.MULTILINE)) > 0
