"""The errors that a caller can do something about, by kind, under one base.

The command lines turn each of them into one line on standard error and exit code 2.
"""

import contextlib
from collections.abc import Iterator


class KdcacheError(Exception):
    """Something that was given cannot be used.

    The message is one line: what was expected, what was found, and what to do next.
    """

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        self.expected, self.found, self.remedy = expected, found, remedy
        super().__init__(" ".join(f"expected {expected}; found {found}; {remedy}".split()))

    def __reduce__(self) -> tuple[type["KdcacheError"], tuple[str, str, str]]:
        return type(self), (self.expected, self.found, self.remedy)  # it travels between processes


class OptionError(KdcacheError):
    """An option, or a combination of options, that cannot be used."""


class DataError(KdcacheError):
    """Images, weights or a run's files that are missing, damaged or do not fit.

    Or no room to write.
    """


class CacheDamagedError(KdcacheError):
    """A cache whose bytes are not the ones that were written."""


class DivergedError(KdcacheError):
    """A training whose loss is no longer finite, or absurdly large."""


class PeerError(KdcacheError):
    """Another process of the same job ended early."""


class KdcacheWarning(UserWarning):
    """Something that was given can be used, but may not be what was meant. One line."""


@contextlib.contextmanager
def uncovered_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt where another error has taken its place.

    A library that cleans up after Ctrl-C may fail in that; what it then raises is no fault of the
    work that was interrupted.
    """
    try:
        yield
    except Exception as error:
        behind: BaseException | None = error
        while behind is not None:
            behind = behind.__context__
            if isinstance(behind, KeyboardInterrupt):
                raise KeyboardInterrupt from error
        raise
