"""Command lines from options: parsers that say what is wrong in one line."""

import argparse
import sys
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kdcache.config import Options, converter, flag_of, rgb, spec_of
from kdcache.errors import OptionError

Kind = TypeVar("Kind", bound=Options)

_METAVARS: dict[Any, str] = {
    int: "N",
    float: "X",
    str: "NAME",
    Path: "PATH",
    rgb: "R,G,B",
}


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse_options(kind: type[Kind], argv: list[str] | None, description: str | None) -> Kind:
    """Make an instance of `kind` from a command line, by default the process's own."""
    parser = OneLineParser(description=description)
    add_options(parser, kind)
    return kind(**vars(parser.parse_args(sys.argv[1:] if argv is None else argv)))


def add_image_arguments(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Give a parser what `load_images_of` needs, for a command that reads a cache's images."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="name of the cache's dataset; needed for one of your own, package.module:name",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help=f"folder with the dataset's images, {purpose}",
    )


def add_model_argument(parser: argparse.ArgumentParser, role: str) -> None:
    """Give a parser the name of the teacher or student that a file names."""
    parser.add_argument(
        f"--{role}",
        metavar="NAME",
        help=f"the {role}'s name; needed for one of your own, package.module:callable",
    )


def given(kind: type[Options], arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `kind` that a command line gave, among a command's other arguments."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def add_options(
    parser: argparse.ArgumentParser, kind: type[Options], without: tuple[str, ...] = ()
) -> None:
    """Give a parser the options of `kind`.

    What is not on the command line is not among the arguments, so that its default stands in one
    place, the dataclass.
    """
    hints = typing.get_type_hints(kind)
    for item in fields(kind):
        if item.name in without:
            continue
        flag, spec = flag_of(item.name), spec_of(item)
        text = spec.help.replace("%", "%%")
        if hints[item.name] is bool:
            parser.add_argument(flag, action="store_true", help=text, default=argparse.SUPPRESS)
            continue
        if choices := spec.describe_choices():
            text += f" [{choices}]"
        if item.default is not None:
            text += f" (default: {item.default})"
        convert = converter(hints[item.name])
        metavar = _METAVARS[convert]
        parser.add_argument(
            flag, type=convert, help=text, metavar=metavar, default=argparse.SUPPRESS
        )


def parse_setting(kind: type[Options], text: str) -> tuple[str, tuple[Any, ...]]:
    """'temperature=1,2,4' -> ('temperature', (1.0, 2.0, 4.0)): values of one option of `kind`.

    Raises OptionError where there is no such option, or it does not take these values.
    """
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    hints = typing.get_type_hints(kind)
    convert = converter(hints[name]) if name in hints else None
    if convert is None or convert is rgb or not values:
        expected = "--set OPTION=VALUE,VALUE,... with an option of train_student.py"
        raise OptionError(expected, f"--set {text}", "see its --help")
    if convert is bool:
        convert = {"true": True, "false": False}.__getitem__
    try:
        return name, tuple(convert(value) for value in values.split(","))
    except (ValueError, KeyError) as error:
        expected = f"values that {flag_of(name)} takes"
        raise OptionError(expected, f"--set {text} ({error})", "correct them") from error
