"""A registry: the choices of one kind, by name, and how a user's own choice joins them.

Every choice is known by where it is defined, `package.module:attribute`, and imported when it is
first used. So an option can list its choices without importing torch, and a choice of the user's
own is named in the same way, without changing the package: `--loss my_losses:l1`.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from kdcache.errors import OptionError

Choice = TypeVar("Choice")

_OWN = ("kdcache.models.small_resnets:", "kdcache.small_resnets:")  # the latter in 0.1.0


class Registry(Generic[Choice]):
    """The choices of one kind.

    Args:
        option: the command-line option that takes a choice's name, for messages.
        entries: where each choice is defined, `package.module:attribute`, by its short name.
    """

    def __init__(self, option: str, entries: Mapping[str, str]) -> None:
        self.option = option
        self._entries: dict[str, str | Choice] = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def register(self, name: str, choice: Choice) -> Choice:
        """Add a choice under a short name, which must be new. Returns it."""
        if name in self._entries:
            raise OptionError(
                f"a new name for {self.option}", f"{name}, which is taken", "use another"
            )
        self._entries[name] = choice
        return choice

    def accepts(self, name: str) -> bool:
        """Whether `name` is a short name or has the form `package.module:attribute`.

        Imports nothing.
        """
        return name in self._entries or is_import_path(name)

    def load(self, name: str) -> Choice:
        """The choice called `name`.

        Raises OptionError where there is none, or it cannot be imported.
        """
        entry = self._entries.get(name, name)
        if not isinstance(entry, str):
            return entry
        if not is_import_path(entry):
            expected = f"{self.option} to be {self.describe()}"
            raise OptionError(expected, f"{self.option} {name}", "correct the name")
        return cast(Choice, import_object(entry))

    def describe(self) -> str:
        """The names that are accepted, for help and messages."""
        return f"one of {', '.join(self)}, or package.module:name"


def is_import_path(name: str) -> bool:
    """Whether a name has the form `package.module:attribute`."""
    module, colon, attribute = name.partition(":")
    words = [*module.split("."), attribute]
    return bool(colon) and all(word.isidentifier() for word in words)


def agreed(recorded: str, given: str | None, option: str, where: object) -> str:
    """A name that a file gives, once it may be used.

    The one rule for caches and runs, which may come from strangers: code that a file names,
    `package.module:name`, runs only where the user names it, too. Names of the package's own are
    free.

    Args:
        recorded: the name, as the file has it.
        given: the name that the user gave with `option`; None where it was not given.
        where: the file, for messages.

    Raises OptionError where the user gave another name, or none where one is needed.
    """
    if given is not None and given != recorded:
        expected = f"{option} {recorded}, as in {where}"
        raise OptionError(expected, f"{option} {given}", f"correct or omit {option}")
    if given is None and ":" in recorded and not recorded.startswith(_OWN):
        expected = f"{option} {recorded} on the command line, before that code is run"
        raise OptionError(expected, f"only {where} naming it", "give it if you trust the code")
    return recorded


def import_object(path: str) -> object:
    """What `package.module:attribute` names. Raises OptionError where it cannot be imported."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        expected = "an importable package.module:name"
        raise OptionError(expected, f"{path} ({error})", "check the name and PYTHONPATH") from error
