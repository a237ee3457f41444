"""`kdcache COMMAND ...`: the table of commands, and what runs one of them.

A command is a module of `kdcache.cli.commands`. Its docstring is its help, `add_arguments` declares
its arguments, and `run` does the work. It is light to import: the folders that it works with load
what they offer when it is used, which is after the options are known to be good.
"""

import argparse
import sys
import textwrap
from typing import Protocol

import kdcache
from kdcache.cli.commands import (
    bench,
    compare,
    export,
    info,
    precompute,
    predict,
    sweep,
    train,
    verify,
)
from kdcache.cli.console import exit_code, say
from kdcache.cli.parser import OneLineParser
from kdcache.errors import OptionError


class Command(Protocol):
    """What each module of `kdcache.cli.commands` has."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int | None:
        """Do the work and return the exit code; None is 0."""
        ...


COMMANDS: dict[str, Command] = {
    "precompute": precompute,
    "train": train,
    "info": info,
    "verify": verify,
    "sweep": sweep,
    "compare": compare,
    "predict": predict,
    "export": export,
    "bench": bench,
}

_EXIT_CODES = (
    "Exit codes: 0 done; 1 something failed, as the output says; 2 something that was given cannot"
    " be used; 130 interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP."
)


def entry_point(argv: list[str] | None = None) -> int:
    """The process's exit code for a command line, by default its own: `kdcache ...`."""
    return exit_code(lambda: main(argv))


def main(argv: list[str] | None = None) -> int | None:
    """Run one of the commands and return its exit code.

    Args:
        argv: the command's name and its arguments; by default the process's own.

    Raises OptionError where there is no such command, and what the command raises.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        say(overview())
        return 0
    if words[0] == "--version":
        say(f"kdcache {kdcache.__version__}")
        return 0
    command, arguments = parse(words)
    return command.run(arguments)


def parse(words: list[str]) -> tuple[Command, argparse.Namespace]:
    """The command that the first word names, and its arguments from the other words.

    Raises OptionError where there is no such command, and SystemExit as argparse does.
    """
    name, *others = words
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise OptionError(f"a command ({known})", name, "see kdcache --help")
    command = COMMANDS[name]
    return command, _parser(command, f"kdcache {name}").parse_args(others)


def run_command(command: Command, argv: list[str] | None = None) -> int | None:
    """Run a command that has a script of its own, with the arguments that the script was given."""
    words = sys.argv[1:] if argv is None else argv
    return command.run(_parser(command, None).parse_args(words))


def overview() -> str:
    """The commands with a line each, and the exit codes."""
    lines = ["usage: kdcache COMMAND ...", "", str(kdcache.__doc__).splitlines()[0], ""]
    lines += [f"  {name:12}{_first_line(command)}" for name, command in COMMANDS.items()]
    lines += ["", "kdcache COMMAND --help describes a command's options.", ""]
    return "\n".join([*lines, *textwrap.wrap(_EXIT_CODES, 79)])


def _parser(command: Command, name: str | None) -> OneLineParser:
    parser = OneLineParser(prog=name, description=_first_line(command))
    command.add_arguments(parser)
    return parser


def _first_line(command: Command) -> str:
    return str(command.__doc__).splitlines()[0]
