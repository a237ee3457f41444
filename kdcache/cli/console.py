"""What the command lines share: printing, progress bars, and errors as one line and an exit code."""

import sys
from collections.abc import Callable

from tqdm import tqdm

from kdcache.errors import KdcacheError


def say(text: str) -> None:
    print(text, flush=True)


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a command: its own code or 0, 2 with one line on standard error for input that cannot be used, 130 for Ctrl-C."""
    try:
        return main() or 0
    except KdcacheError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"interrupted; {str(error) or 'nothing was left behind'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


class Progress:
    """A progress bar that is told absolute counts."""

    def __init__(self, title: str, unit: str, hidden: bool = False) -> None:
        self._bar = tqdm(
            desc=title, unit=unit, total=0, dynamic_ncols=True, file=sys.stderr, disable=hidden
        )

    def __call__(self, done: int, total: int) -> None:
        if self._bar.disable:
            return
        if self._bar.total != total:
            self._bar.reset(total)
            self._bar.initial = self._bar.n = (
                done  # what an earlier run did says nothing about the speed
            )
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        """Print a line without tearing the bar; nothing where the bar is hidden."""
        if self._bar.disable:
            return
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Behind the bar, until the next time."""
        self._bar.set_postfix_str(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
