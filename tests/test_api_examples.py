"""The Python in the documentation: the blocks of a page run in order, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from commands import run

import kdcache
from kdcache.cli import main as tools

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; what is registered there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (
        kdcache.DATASETS,
        kdcache.LOSSES,
        kdcache.PROJECTIONS,
        kdcache.VIEW_POLICIES,
    ):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return tmp_path


def test_the_examples_of_the_interface(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks(DOCS / "api.md"):
        exec(compile(block, "api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "880 rows" in printed  # 160 x 4 training views, 40 validation and 200 test images
    assert "epoch 2: " in printed
    assert "expected a finished cache; found missing.h5: No such file" in printed
    assert (folder / "runs" / "l1" / "student.pt").exists()


@pytest.mark.parametrize("name", kdcache.__all__)
def test_every_public_name_is_described(name: str) -> None:
    assert re.search(rf"`(kdcache\.)?{name}\b", (DOCS / "api.md").read_text())


def test_nothing_else_is_said_to_be_public() -> None:
    named = set(re.findall(r"\bkdcache\.(\w+)", "\n".join(blocks(DOCS / "api.md"))))
    assert named - {"models"} <= set(kdcache.__all__)  # the small models are named in strings


def test_the_loop_of_ones_own(folder: Path) -> None:
    """The README's, with a small cache in the place of the large one."""
    first, *_ = blocks(DOCS / "api.md")
    exec(compile(first, "api.md", "exec"), {})
    (loop,) = blocks(ROOT / "README.md")
    names: dict[str, object] = {}
    exec(compile(loop.replace("cifar10-vit.h5", "teacher.h5"), "README.md", "exec"), names)
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert set(batch) >= {"image", "soft_targets", "label"}


def test_one_of_each_of_ones_own(folder: Path) -> None:
    """The module of docs/extending.md, and its commands."""
    (folder / "mine.py").write_text("\n\n".join(blocks(DOCS / "extending.md")))
    (shell,) = blocks(DOCS / "extending.md", "sh")
    _, *commands = shell.splitlines()
    for command in commands:
        assert run(tools.main, *shlex.split(command)[1:]) == 0
    summary = kdcache.open_run(folder / "runs" / "stripes", "mine:small_cnn").summary
    found = summary.dataset, summary.projection, summary.loss
    assert found == ("mine:STRIPES", "mine:FirstClasses", "mine:l1")
