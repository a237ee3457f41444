"""Running the command lines inside a test."""

from collections.abc import Callable

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
