"""The documentation: each command can be given, the tutorial works, the map is complete.

The tutorial runs with small models and images in the place of the large ones.
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from commands import run
from matplotlib import pyplot
from PIL import Image

import precompute_teacher
import train_student
from kdcache.cli import callbacks
from kdcache.cli import main as tools
from kdcache.cli.parser import given, options_from, parse_setting
from kdcache.config import PrecomputeOptions, TrainOptions
from kdcache.errors import OptionError

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))
from evidence import TABLES  # noqa: E402

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"precompute_teacher.py": "precompute", "train_student.py": "train"}
OPTIONS = {"precompute": PrecomputeOptions, "train": TrainOptions}


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's shell blocks.

    Variables are filled in, and torchrun's own words are left out.
    """
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        variables: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = re.sub(rf"\${name}\b", value, line)
            if assignment := re.fullmatch(r'([A-Z]+)="(.*)"', line):
                variables[assignment[1]] = assignment[2]
            elif words := shlex.split(line, comments=True):
                found.append(
                    words
                    if words[0] != "torchrun"
                    else ["python", *(w for w in words[1:] if "--nproc" not in w)]
                )
    return found


def check(words: list[str]) -> None:
    """Parse a command with the parser that it would have."""
    if words[:3] == ["python", "-m", "kdcache"]:
        words = words[2:]
    if words[:1] == ["kdcache"]:
        _, arguments = tools.parse(words[1:])
        if words[1] == "sweep":
            assert all(parse_setting(TrainOptions, text) for text in arguments.set)
            TrainOptions(**given(TrainOptions, arguments))
        elif words[1] in OPTIONS and not {"config", "resume"} & vars(arguments).keys():
            options_from(OPTIONS[words[1]], arguments)
        return
    if words[:2] == ["python", "docs/evidence.py"]:
        assert words[2] in TABLES
        return
    if words[:1] == ["python"] and words[1] in SCRIPTS:
        check(["kdcache", SCRIPTS[words[1]], *words[2:]])
    elif words[0] == "make":
        assert all(
            re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            for target in words[1:]
        )
    elif words[:1] == ["python"]:
        assert (ROOT / words[1]).is_file(), words
    else:
        assert words[0] in (".", "pip", "export", ".venv/bin/pre-commit"), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_given(page: Path) -> None:
    for words in commands(page):
        try:
            check(words)
        except (SystemExit, argparse.ArgumentError, OptionError) as error:
            pytest.fail(f"{page.name}: {shlex.join(words)}: {error}")


def test_the_check_notices_an_option_that_is_not_there() -> None:
    with pytest.raises(SystemExit):
        check(["python", "train_student.py", "--warmth", "3"])
    with pytest.raises(SystemExit):
        check(["python", "-m", "kdcache", "verify"])
    with pytest.raises(SystemExit):
        check(["kdcache", "sweep", "teacher.h5", "--warmth", "3"])
    with pytest.raises(OptionError):
        check(["kdcache", "melt"])


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands one after another; what is large is replaced by something small."""
    monkeypatch.chdir(tmp_path)
    # a sweep's pictures take most of its time
    monkeypatch.setattr(callbacks.ShowSweep, "on_tested", lambda self, run: None)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save("photo.png")
    small = {"cifar10": "shapes", "8": "2", "3": "2", "100": "20"}
    teacher = ["--limit", "100", "--teacher", "tiny_models:tiny_teacher", "--image-size", "16"]
    student = ["--student", "tiny_models:tiny_cnn", "--epochs", "2", "--batch-size", "32"]
    executed = 0
    for words in commands(ROOT / "docs" / "tutorial.md"):
        words = [small.get(word, word) for word in words]
        if words[:2] == ["python", "precompute_teacher.py"]:
            assert run(precompute_teacher.main, *words[2:], *teacher) == 0
        elif words[:2] == ["python", "train_student.py"]:
            assert run(train_student.main, *words[2:], *student) == 0
        elif words[:2] == ["kdcache", "sweep"]:
            assert run(tools.main, *words[1:], *student) == 0
        elif words[0] == "kdcache":
            assert run(tools.main, *words[1:]) == 0
        else:
            continue
        executed += 1
    assert executed == 12
    files = ("predictions.png", "targets.png", "report.html", "runs/distilled/student.pt2")
    for file in files:
        assert (tmp_path / file).stat().st_size > 5000, file
    assert "Temperature and alpha" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("started_in", [".", "docs"])
def test_the_notebook(
    started_in: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    cache = ["--views", 2, "--augment", "crop-flip", "--cache", tmp_path / "teacher.h5"]
    small = [
        "--dataset",
        "shapes",
        "--limit",
        "100",
        "--teacher",
        "tiny_models:tiny_teacher",
        "--image-size",
        "16",
    ]
    assert run(precompute_teacher.main, *small, *cache) == 0
    (tmp_path / started_in).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / started_in)
    names: dict[str, object] = {}
    for cell in json.loads((ROOT / "docs" / "soft_targets.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("runs/demo/teacher.h5", "teacher.h5"), names)
    printed = capsys.readouterr().out
    assert "tiny_models:tiny_teacher probe (80, 2, 10)" in printed and "mean confidence" in printed
    pyplot.close("all")


def test_the_map_names_every_module() -> None:
    """docs/architecture.md: a row for each module, below its folder, and none for what is gone."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    mapped = set()
    folder = ""
    for line in text.splitlines():
        if heading := re.match(r"### `(.*)/`", line):
            folder = heading[1]
        elif row := re.match(r"\| `(\w+\.\w+)` \| \S", line):
            mapped.add(f"{folder}/{row[1]}")
    package = [path for path in (ROOT / "kdcache").rglob("*") if path.suffix in (".py", ".css")]
    modules = {
        str(path.relative_to(ROOT))
        for path in package
        if path.name not in ("__init__.py", "__main__.py", "_lazy.py", "errors.py")
    }
    assert mapped == modules


def test_the_order_of_imports_is_the_one_that_is_enforced() -> None:
    def order(text: str) -> str:
        joined = " ".join(line.lstrip("# ") for line in text.splitlines())
        return re.findall(r"errors < config[\w<, ]* < cli", joined)[0]

    enforced = order((ROOT / "kdcache" / "__init__.py").read_text())
    for page in ("docs/architecture.md", "CONTRIBUTING.md"):
        assert order((ROOT / page).read_text()) == enforced


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in map(as_anchor, headings), target


def as_anchor(heading: str) -> str:
    """The anchor that a heading gets on the usual hosts."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
