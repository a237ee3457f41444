"""Command lines from options: parsers that say what is wrong in one line."""

import argparse
import sys
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kdcache.cli.console import fail, warn
from kdcache.config import (
    Group,
    Options,
    Span,
    agreed,
    converter,
    expanded,
    flag_of,
    in_front,
    one_or_more,
    read_settings,
    rgb,
    spec_of,
)
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

    def __init__(self, **settings: Any) -> None:
        layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**layout | settings)

    def error(self, message: str) -> NoReturn:
        fail(f"{self.prog}: error: {message}; see {self.prog} --help")
        raise SystemExit(2)


def parse_options(kind: type[Kind], argv: list[str] | None, description: str | None) -> Kind:
    """Make an instance of `kind` from a command line, by default the process's own."""
    parser = OneLineParser(description=description)
    add_options(parser, kind)
    add_config(parser)
    return options_from(kind, parser.parse_args(sys.argv[1:] if argv is None else argv))


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
    names, several = {item.name for item in fields(kind)}, kind.names_of_several()
    return {
        name: one_or_more(value) if name in several else value
        for name, value in vars(arguments).items()
        if name in names
    }


def options_from(kind: type[Kind], arguments: argparse.Namespace) -> Kind:
    """The options that a command line gave, those of its --config file, and defaults for the rest.

    What the file gives and does nothing beside the command line is left out, and a line says so.

    Raises OptionError where an option of the command line does nothing, or a value cannot be used.
    """
    own, config = given(kind, arguments), getattr(arguments, "config", None)
    settings = read_settings(config, kind) if config is not None else {}
    if config is not None and config.suffix == ".json":  # a run's, which may be a stranger's
        for name in settings.keys() & set(kind.names_of_code()) - own.keys():
            agreed(settings[name], None, flag_of(name), config)
    options = kind(**in_front(expanded(own), expanded(settings)))
    options.check_used(own)
    used = options.used_only()
    idle = [name for name in settings if getattr(used, name) != getattr(options, name)]
    if idle:
        warn(f"{config}: not used here: {', '.join(map(flag_of, idle))}")
    return used


def add_config(parser: argparse.ArgumentParser) -> None:
    """Give a parser --config, for `options_from`."""
    parser.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="read options from a TOML file with their names, or from a run's config.json; the"
        " command line overrides it, --no-NAME what is true there",
    )


def describe_use(parser: argparse.ArgumentParser, kind: type[Options]) -> None:
    """Have the help end with the options of `kind` that people change first, and examples."""
    items = {item.name: item for item in fields(kind)}
    lines = ["change these first:"]
    for first in kind.first:
        text = spec_of(items[first]).help
        lines.append(f"  {flag_of(first):12}{text}")
    heading = "example:" if len(kind.examples) == 1 else "examples:"
    lines += ["", heading, *(f"  {parser.prog} {words}" for words in kind.examples)]
    parser.usage, parser.epilog = "%(prog)s [options]", "\n".join(lines).replace("%", "%%")


def add_options(
    parser: argparse.ArgumentParser, kind: type[Options], without: tuple[str, ...] = ()
) -> None:
    """Give a parser the options of `kind`.

    What is not on the command line is not among the arguments, so that its default stands in one
    place, the dataclass. Each stands under the heading of its group.
    """
    hints = typing.get_type_hints(kind)
    items = [item for item in fields(kind) if item.name not in without]
    groups: dict[Group | None, Any] = {None: parser}
    for group in Group:
        if any(spec_of(item).group is group for item in items):
            groups[group] = parser.add_argument_group(
                kind.model if group is Group.MODEL else group.value
            )
    for item in items:
        flag, spec = flag_of(item.name), spec_of(item)
        target, text = groups[spec.group], spec.help.replace("%", "%%")
        if hints[item.name] is bool:
            off = {"dest": item.name, "default": argparse.SUPPRESS}
            target.add_argument(flag, action="store_true", help=text, default=argparse.SUPPRESS)
            target.add_argument(
                f"--no-{flag[2:]}", action="store_false", help=argparse.SUPPRESS, **off
            )
            continue
        if choices := spec.describe_choices():
            text += f" [{choices}]"
        if item.default is not None:
            text += f" (default: {item.default})"
        convert = converter(hints[item.name])
        metavar = _METAVARS[convert]
        many: dict[str, Any] = {"nargs": "+"} if spec.several else {}
        target.add_argument(
            flag, type=convert, help=text, metavar=metavar, default=argparse.SUPPRESS, **many
        )


def parse_setting(kind: type[Options], text: str) -> tuple[str, tuple[Any, ...]]:
    """'temperature=1,2,4' -> ('temperature', (1.0, 2.0, 4.0)): values of one option of `kind`.

    Raises OptionError where there is no such option, or it does not take these values.
    """
    name, values, convert = _assignment(kind, text, "--set", "OPTION=VALUE,VALUE,...")
    try:
        return name, tuple(convert(value) for value in values.split(","))
    except (ValueError, KeyError) as error:
        expected = f"values that {flag_of(name)} takes"
        raise OptionError(expected, f"--set {text} ({error})", "correct them") from error


def parse_range(kind: type[Options], text: str) -> tuple[str, Span]:
    """'temperature=1:8:log' -> ('temperature', Span(1.0, 8.0, log=True)): bounds of an option.

    Raises OptionError where there is no such option, it has no numbers, or these are no bounds.
    """
    form = "OPTION=LOW:HIGH or OPTION=LOW:HIGH:log"
    name, bounds, convert = _assignment(kind, text, "--range", form)
    low, *rest = bounds.split(":")
    try:
        if convert not in (int, float) or len(rest) not in (1, 2) or rest[1:] not in ([], ["log"]):
            raise ValueError(form)
        span = Span(convert(low), convert(rest[0]), log=len(rest) == 2, whole=convert is int)
        if not span.low < span.high or (span.log and span.low <= 0):
            raise ValueError("LOW below HIGH, and above 0 with log")
    except ValueError as error:
        expected = f"--range {form} with numbers"
        raise OptionError(expected, f"--range {text} ({error})", "correct it") from error
    return name, span


def _assignment(
    kind: type[Options], text: str, flag: str, form: str
) -> tuple[str, str, Callable[[str], Any]]:
    """(name of an option, what stands behind '=', what converts a word to its value)."""
    name, _, values = text.partition("=")
    name = name.replace("-", "_")
    hints = typing.get_type_hints(kind)
    convert = converter(hints[name]) if name in hints else None
    one = convert is not rgb and name not in kind.names_of_several()
    if convert is None or not one or not values:
        expected = f"{flag} {form} with an option of train_student.py"
        raise OptionError(expected, f"{flag} {text}", "see its --help")
    if convert is bool:
        convert = {"true": True, "false": False}.__getitem__
    return name, values, convert
