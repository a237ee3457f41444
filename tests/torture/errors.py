"""Every error that the system can give, at every call by which a command changes the disk.

Simulated: a call of `precompute` or `train` fails with each error that is named below; one that
writes has written half of its bytes before the disk is full. A command may say in one line what
failed (exit code 2), or do without what it does not need, such as the file of the probe. Given
again, it must go on to the undisturbed files. Not simulated: two errors in one run.
"""

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torture import phases
from torture.common import Row, hooked, main
from torture.syscalls import carry_out

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
ERRORS = {
    "open": (errno.EACCES, errno.EMFILE, errno.EROFS, *_FULL),
    "mkdir": (errno.EACCES, errno.EROFS, errno.ENOSPC),
    "write": (errno.EFBIG, *_FULL),
    "pwrite": (errno.EFBIG, *_FULL),
    "ftruncate": (errno.EFBIG, errno.EIO),
    "posix_fallocate": (errno.EFBIG, *_FULL),
    "fsync": _FULL,
    "fdatasync": _FULL,
    "rename": (errno.EACCES, errno.EROFS, *_FULL),
    "replace": (errno.EACCES, errno.EROFS, *_FULL),
    "unlink": (errno.EACCES, errno.EROFS, errno.EIO),
}


def failing(place: int, number: int) -> Callable[..., Any]:
    """For `hooked`: an error at the call number `place`."""
    calls = iter(range(1 << 30))

    def around(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
        if next(calls) != place:
            return real(*arguments)
        if name in ("write", "pwrite") and number == errno.ENOSPC:
            fd, data, *offset = arguments
            real(fd, data[: len(data) // 2], *offset)
        raise OSError(number, os.strerror(number))

    return around


def refused(
    stage: phases.Stage, ends: Counter[str], root: Path, place: int, number: int
) -> str | None:
    """What is wrong after a call of a command failed."""
    stage.set_up(root)
    code, said = stage.disturb(root, lambda report: hooked(failing(place, number), reading=True))
    ends["finished all the same" if code == 0 else "refused"] += 1
    if code != 0 and (code != phases.REFUSED or not phases.is_one_line(said)):
        return f"ended with {code}: {said}"
    return stage.check(root)


def cases(ends: Counter[str]) -> Iterator[tuple[str, Callable[[Path], str | None]]]:
    """(name, what is wrong after it) of every case."""
    for stage in phases.stages():
        for place, name in enumerate(stage.calls(reading=True)):
            for error in ERRORS[name]:
                what = f"{stage.scene.name}, {errno.errorcode[error]} at call {place} ({name})"
                yield what, partial(refused, stage, ends, place=place, number=error)


def run(count: int, seed: int) -> Row:
    row, ends = (
        Row("Every error at every call of `precompute` and `train` that writes", 0),
        Counter[str](),
    )
    with tempfile.TemporaryDirectory() as name:
        every = list(cases(ends))
        whole = carry_out(row, every, count, seed, Path(name))
    row.outcome = (
        f"{'all' if whole else f'{row.count} of'} {len(every)} cases of {len(phases.SCENES)}"
        f" scenes: {', '.join(f'{times:,} {end}' for end, times in sorted(ends.items()))}; the same"
        " command went on to the undisturbed files, bit for bit"
    )
    return row


if __name__ == "__main__":
    main(run, 60)
