"""Where the command lines print: results, errors as one line, and progress bars."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

from kdcache.errors import KdcacheError, OptionError


def say(text: str) -> None:
    """Print a result, at once, also where standard output is a pipe."""
    print(text, flush=True)


def warn(text: str) -> None:
    """Print a line on standard error, so that it is not taken for a result."""
    print(text, file=sys.stderr)


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a command and return the process's exit code.

    That is the command's own or 0; 2, with one line on standard error, where it was given
    something that it cannot use; and 130 where Ctrl-C ended it.
    """
    try:
        _check_platform()
        return main() or 0
    except KdcacheError as error:
        warn(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        warn(f"interrupted; {str(error) or 'nothing was left behind'}")
        return 130
    except BrokenPipeError:  # `kdcache info ... | head` has read all that it wanted
        return 1


def _check_platform() -> None:
    """Raise OptionError on Windows, which lacks the file locks that keep runs apart."""
    if sys.platform == "win32":
        raise OptionError("Linux or macOS", "Windows", "use it in WSL 2 or a Linux container")


class Progress:
    """A progress bar that is told absolute counts; in a notebook, one of the notebook's.

    Args:
        title: in front of the bar.
        unit: of what is counted, for the speed.
        hidden: show and print nothing, as all but one of several processes should.
    """

    def __init__(self, title: str, unit: str, hidden: bool = False) -> None:
        self._bar = _bar_class()(
            desc=title, unit=unit, total=0, dynamic_ncols=True, file=sys.stderr, disable=hidden
        )

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        if self._bar.disable:
            return
        if self._bar.total != total:
            # What was done before this process began says nothing about its speed.
            self._bar.reset(total)
            self._bar.initial = done
            self._bar.n = done
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """Print a line without tearing the bar; nothing where the bar is hidden."""
        if self._bar.disable:
            return
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Show `text` behind the bar, until the next call."""
        self._bar.set_postfix_str(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._bar.total:
            self._bar.leave = False  # nothing was counted
        self._bar.close()


def _bar_class() -> Any:
    """tqdm's for this place; imported when a bar is shown, for it takes asyncio along."""
    with warnings.catch_warnings():  # a notebook without ipywidgets gets the plain bar, silently
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm
