"""Every command in the documentation.

That it can be given, and that the tutorial works, with small models and images.
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
from kdcache.cli import main as tools
from kdcache.cli.parser import OneLineParser, add_options, given, parse_setting
from kdcache.config import PrecomputeOptions, TrainOptions
from kdcache.search import sweep

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "docs"))
from evidence import TABLES  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {
    "precompute_teacher.py": (precompute_teacher, PrecomputeOptions),
    "train_student.py": (train_student, TrainOptions),
}


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a page's shell blocks, variables filled in, without torchrun's
    own.
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
        return
    if words[:2] == ["python", "docs/evidence.py"]:
        assert words[2] in TABLES
        return
    if words[:1] == ["python"] and words[1] in SCRIPTS:
        parser = OneLineParser()
        add_options(parser, SCRIPTS[words[1]][1])
        SCRIPTS[words[1]][1](**vars(parser.parse_args(words[2:])))
    elif words[0] == "make":
        assert all(
            re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            for target in words[1:]
        )
    elif words[:1] == ["python"]:
        assert (ROOT / words[1]).is_file(), words
    else:
        assert words[0] in (".", "pip"), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_can_be_given(page: Path) -> None:
    for words in commands(page):
        try:
            check(words)
        except (SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{page.name}: {shlex.join(words)}: {error}")


def test_the_check_notices_an_option_that_is_not_there() -> None:
    with pytest.raises(SystemExit):
        check(["python", "train_student.py", "--warmth", "3"])
    with pytest.raises(SystemExit):
        check(["python", "-m", "kdcache", "verify"])


def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands one after another; what is large is replaced by something small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "draw_pictures", lambda run: None)  # they take most of the time
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save("photo.png")
    small = {"cifar10": "shapes", "8": "2", "3": "2", "100": "20"}
    teacher = ["--limit", "100", "--teacher", "tiny_models:tiny_teacher", "--image-size", "16"]
    student = ["--student", "tiny_models:tiny_cnn", "--epochs", "2", "--batch-size", "32"]
    given = 0
    for words in commands(ROOT / "docs" / "tutorial.md"):
        words = [small.get(word, word) for word in words]
        if words[:2] == ["python", "precompute_teacher.py"]:
            assert run(precompute_teacher.main, *words[2:], *teacher) == 0
        elif words[:2] == ["python", "train_student.py"]:
            assert (
                run(train_student.main, *words[2:], *(student if "--resume" not in words else []))
                == 0
            )
        elif words[:4] == ["python", "-m", "kdcache", "sweep"]:
            assert run(tools.main, *words[3:], *student) == 0
        elif words[:3] == ["python", "-m", "kdcache"]:
            assert run(tools.main, *words[3:]) == 0
        else:
            continue
        given += 1
    assert given == 12
    for picture in (
        "predictions.png",
        "targets.png",
        "report.html",
        "runs/distilled/student.pt2",
    ):
        assert (tmp_path / picture).stat().st_size > 5000, picture
    assert "Temperature and alpha" in (tmp_path / "report.html").read_text()


def test_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    names: dict[str, object] = {}
    for cell in json.loads((ROOT / "docs" / "soft_targets.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("runs/demo/teacher.h5", "teacher.h5"), names)
    printed = capsys.readouterr().out
    assert "tiny_models:tiny_teacher probe (80, 2, 10)" in printed and "mean confidence" in printed
    pyplot.close("all")
