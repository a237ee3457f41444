"""`kdcache` itself: the list of commands, and what it says to a word that is none of them."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, run
from phases import ROOT, SHAPES

import kdcache
from kdcache.cli import main as tools
from kdcache.cli.commands import precompute, train

NAMES = {
    "precompute", "train", "info", "verify", "sweep", "compare", "predict", "export", "bench",
}  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_it_lists_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tools.main, *arguments) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if line.startswith("  ")]
    assert {line.split()[0] for line in lines} == NAMES == set(tools.COMMANDS)
    assert all(len(line.split()) > 5 and len(line) <= 100 for line in lines), "a line each"
    assert "Exit codes: 0 done" in shown.out
    assert shown.err == ""


def test_every_command_is_a_module_of_the_folder() -> None:
    folder = Path(str(precompute.__file__)).parent
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(tools.COMMANDS)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_command_describes_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        tools.main([name, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert shown.startswith(f"usage: kdcache {name} ")
    words = str(tools.COMMANDS[name].__doc__).splitlines()[0].split()
    assert " ".join(words) in " ".join(shown.split())


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tools.main, "--version") == 0
    assert capsys.readouterr().out == f"kdcache {kdcache.__version__}\n"


def test_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(tools.main, capsys, "trian", "--alpha", 0)
    assert message.startswith("error: expected a command (precompute, train, info, ")
    assert message.endswith("; found trian; see kdcache --help")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "precompute --veiws 3",
            "unrecognized arguments: --veiws 3; see kdcache precompute --help",
        ),
        ("precompute --views 2", "--views above 1 and an --augment other than none together"),
        ("train --alpha 1.5", "--alpha to be 0 to 1; found --alpha 1.5"),
        ("train --epochs many", "argument --epochs: invalid int value: 'many'"),
        ("info", "the following arguments are required: CACHE"),
        ("info c.h5 --yaml", "unrecognized arguments: --yaml"),
        ("verify c.h5 --live many", "argument --live: invalid int value: 'many'"),
        ("sweep c.h5 --resume run", "unrecognized arguments: --resume run"),
        ("sweep c.h5 --overwrite", "unrecognized arguments: --overwrite"),
        ("sweep c.h5 --limit 9", "--limit 9 only without --cache"),
        (
            "sweep c.h5 --set alpha=0 --set temperature=1,4",
            "--temperature 1.0 only with --alpha above 0",
        ),
        ("sweep c.h5 --jobs 0", "expected at least 1 for --jobs; found 0"),
        ("compare", "the following arguments are required: RUN"),
        ("predict run", "the following arguments are required: IMAGE_OR_FOLDER"),
        ("export run", "the following arguments are required: --format"),
        ("bench --rounds 0", "--rounds to be at least 1"),
    ],
)
def test_a_wrong_option(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(tools.main, capsys, *words.split())


@pytest.mark.parametrize("words", [["--list"], ["info", "none.h5"]])
def test_a_real_process_ends_with_2_and_one_line(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kdcache", *words]
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: expected ")
    assert finished.stderr.count("\n") == 1


def test_the_words_after_a_command_become_its_arguments() -> None:
    command, arguments = tools.parse(["precompute", *SHAPES])
    assert command is precompute
    expected = {"dataset": "shapes", "limit": 100, "image_size": 16}
    assert vars(arguments) == expected, "the defaults are those of the options"
    assert tools.parse(["train"]) == (train, argparse.Namespace())
