"""Where the command lines print: results, errors as one line, and progress bars."""

import contextlib
import errno
import signal
import sys
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kdcache import runtime
from kdcache.errors import KdcacheError, KdcacheWarning, OptionError

# what the machine or its owner forbids, wherever it comes to light: no fault of the program
_FORBIDDEN = {
    getattr(errno, name)
    for name in (
        "EACCES", "EDQUOT", "EIO", "EMFILE", "ENAMETOOLONG", "ENFILE", "ENOMEM", "ENOSPC",
        "EPERM", "EROFS",
    )
}  # fmt: skip


def printable(text: str) -> str:
    """The text with all but line breaks escaped that a terminal would not show but obey."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    """Control and format characters, lone surrogates and the like as in Python: \\x1b."""
    steers = unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
    if steers and character != "\n":
        return character.encode("unicode_escape").decode()
    return character


def say(text: str) -> None:
    """Print a result, at once, also where standard output is a pipe."""
    print(printable(text), flush=True)


def warn(text: str) -> None:
    """Print a line on standard error, so that it is not taken for a result."""
    print(printable(text), file=sys.stderr)


def fail(text: str) -> None:
    """Print on standard error why this process ends.

    Of several processes of torchrun the main one does; torchrun's summary, which comes last, has
    the line of each.
    """
    told = runtime.tell_torchrun(printable(text))
    if runtime.is_main_process() or not told:
        warn(text)


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a command and return the process's exit code.

    That is the command's own or 0; 2, with one line on standard error, where it was given
    something that it cannot use; 130 where Ctrl-C ended it, and likewise 143 for SIGTERM and 129
    for SIGHUP.
    """
    received: list[int] = []
    try:
        _check_platform()
        with _signals_like_ctrl_c(received), _warnings_as_lines():
            return main() or 0
    except KdcacheError as error:
        fail(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        fail(f"interrupted; {str(error) or 'nothing was left behind'}")
        return 128 + (received[0] if received else signal.SIGINT)
    except BrokenPipeError:  # `kdcache info ... | head` has read all that it wanted
        return 1
    except MemoryError as error:
        fail(f"error: expected enough memory; found too little ({error}); ask for less of it")
        return 2
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        found = f"{where}{error.strerror}"
        fail(f"error: expected files that can be read and written; found {found}; correct it")
        return 2


@contextlib.contextmanager
def _signals_like_ctrl_c(received: list[int]) -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise KeyboardInterrupt, unless they are ignored, as under nohup.

    Args:
        received: gets the numbers of those that came.
    """

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                former[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _check_platform() -> None:
    """Raise OptionError on Windows, which lacks the file locks that keep runs apart."""
    if sys.platform == "win32":
        raise OptionError("Linux or macOS", "Windows", "use it in WSL 2 or a Linux container")


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show our own warnings as a line each, without their place in the source."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, KdcacheWarning):
                warn(f"warning: {message}")
            else:
                usual(message, category, *place)

        warnings.showwarning = show
        yield


def leave_warnings_to_main(is_main: bool) -> None:
    """Of several processes that would warn of the same things, let only the main one do so."""
    if not is_main:
        warnings.simplefilter("ignore", KdcacheWarning)


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
        self._bar.write(printable(text), file=sys.stdout)
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Show `text` behind the bar, until the next call."""
        self._bar.set_postfix_str(printable(text))

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
