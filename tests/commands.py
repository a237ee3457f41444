"""Running the command lines inside a test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdcache.cli.console import exit_code

Main = Callable[[list[str]], int | None]


def run(main: Main, *arguments: object) -> int:
    """The exit code of a command."""
    return exit_code(lambda: main([str(argument) for argument in arguments]))


def refused(
    main: Main, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2
) -> str:
    """The one line on standard error with which a command refuses its input."""
    capsys.readouterr()
    try:
        found = run(main, *arguments)
    except SystemExit as error:  # argparse
        found = error.code
    captured = capsys.readouterr().err
    lines = [line for line in captured.replace("\r", "\n").splitlines() if "error:" in line]
    assert found == code
    assert len(lines) == 1
    assert "Traceback" not in captured
    return lines[0]


def as_older(path: Path) -> Any:
    """What a JSON file of a run says, without its own SHA-256, as an older version wrote it."""
    document = json.loads(path.read_text())
    document.pop("sha256")
    return document
