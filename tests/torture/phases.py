"""Both phases as their command lines run them, small enough to be run thousands of times.

A scene is a folder in some state, and the command that is disturbed in it. Each command runs in a
forked child. Its clock ticks once a look, and its pictures are a few bytes that follow from the
predictions, so that an undisturbed run leaves the same bytes in every file whenever it runs.
"""

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from kdcache.cli import callbacks
from kdcache.cli import main as commands
from kdcache.cli.callbacks import ShowTraining
from kdcache.config import registry
from kdcache.engine import StudentRun, precomputation, student_run
from kdcache.report.plot_style import save_png
from torture.common import fork, hooked, replaced

Report = Callable[[Any], None]
Disturb = Callable[[Report], AbstractContextManager[Any]]

REFUSED = 2
BLOCK_ROWS = 8  # nine blocks
ONE = (
    "precompute --dataset shapes --limit 20 --image-size 8 --views 2 --augment crop-flip"
    " --precision fp32 --teacher tiny_models:tiny_teacher --device cpu --cache new/t.h5"
)
TWO = (
    "train --cache new/t.h5 --student torture.phases:student --image-size 8 --batch-size 10"
    " --precision fp32 --device cpu --out new/run"
)
STOPPED = "stopped after an epoch: "


def student() -> torch.nn.Module:
    """A student whose generator has to be resumed too."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(64, 10),
    )


@cache
def stages() -> list["Stage"]:
    """Every scene, prepared; in a folder that is removed at the end of the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return [Stage(scene, Path(folder.name) / f"{number}") for number, scene in enumerate(SCENES)]


@dataclass(frozen=True)
class Scene:
    """The commands that were carried out before, and the one that is disturbed."""

    name: str
    before: tuple[str, ...]
    command: str


FRESH = Scene("phase two", (ONE,), f"{TWO} --epochs 2")
SCENES = (
    Scene("phase one", (), ONE),
    Scene("phase one, replacing a cache", (f"{ONE} --seed 1",), f"{ONE} --restart"),
    FRESH,
    Scene("phase two, resuming", (ONE, f"{STOPPED}{TWO} --epochs 2"), FRESH.command),
    Scene(
        "phase two, replacing a run",
        (ONE, f"{TWO} --epochs 1 --seed 1"),
        f"{FRESH.command} --overwrite",
    ),
    Scene("phase two, extending a run", (ONE, f"{TWO} --epochs 1"), f"{FRESH.command} --extend"),
)


class Stage:
    """A scene that has been prepared once, and what its undisturbed command leaves.

    Args:
        folder: for what is kept; made here.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene, self._before = scene, folder / "before"
        (self._before / "new").mkdir(parents=True)
        for words in scene.before:
            code, said = carry_out(words, self._before)
            assert code == (130 if words.startswith(STOPPED) else 0), said
        self.set_up(folder / "after")
        assert self.disturb(folder / "after") == (0, [])
        self.expected = snapshot(folder / "after")

    def set_up(self, root: Path) -> None:
        """What lies there before the command; `root` must not be there."""
        shutil.copytree(self._before, root)

    def disturb(self, root: Path, disturb: Disturb | None = None) -> tuple[int, list[Any]]:
        """Carry out the command, as `carry_out` does."""
        return carry_out(self.scene.command, root, disturb or _undisturbed)

    def calls(self, reading: bool = False) -> list[str]:
        """The names of the calls by which the undisturbed command changes the disk, in order.

        Args:
            reading: also those that open a file or a folder for reading.
        """

        def noting(report: Report) -> AbstractContextManager[None]:
            def note(name: str, real: Callable[..., Any], *arguments: Any) -> Any:
                report(name)
                return real(*arguments)

            return hooked(note, reading)

        root = self._before.with_name("calls")
        shutil.rmtree(root, ignore_errors=True)
        self.set_up(root)
        return self.disturb(root, noting)[1]

    def check(self, root: Path) -> str | None:
        """Give the command again: what is wrong with what is there then."""
        code, said = self.disturb(root)
        if code != 0:
            return f"it does not go on: {code} {said}"
        found = snapshot(root)
        names = {
            name
            for name in found.keys() | self.expected.keys()
            if found.get(name) != self.expected.get(name)
        }
        return f"not as undisturbed: {', '.join(sorted(names))}" if names else None


def _undisturbed(report: Report) -> AbstractContextManager[None]:
    return nullcontext()


def carry_out(words: str, root: Path, disturb: Disturb = _undisturbed) -> tuple[int, list[Any]]:
    """Run a command in a child whose current folder is `root`.

    Returns its exit code, and what `disturb` reported or, at the end, an error said.
    """
    return fork(lambda report: _carry_out(words, root, disturb, report)).finish()


def _carry_out(words: str, root: Path, disturb: Disturb, report: Report) -> int:
    torch.set_num_threads(1)
    os.chdir(root)
    errors, ticks = StringIO(), itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    with (
        replaced(os, fsync=_rest, fdatasync=_rest),
        replaced(student_run, time=clock),
        replaced(precomputation, _BLOCK_ROWS=BLOCK_ROWS),
        replaced(callbacks.report, draw_pictures=_draw_pictures),
        replaced(ShowTraining, on_epoch=_stop if words.startswith(STOPPED) else _rest),
        replaced(registry, _OWN=(*registry._OWN, "tiny_models:", "torture.phases:")),
        redirect_stdout(StringIO()),
        redirect_stderr(errors),
        disturb(report),
    ):
        code = commands.entry_point(words.removeprefix(STOPPED).split())
    if code:
        report(errors.getvalue())
    return code


def _stop(*arguments: Any) -> None:
    raise KeyboardInterrupt


def _rest(*arguments: Any) -> None:
    """The real disk may rest: what a killed process has written, the system keeps."""


def _draw_pictures(run: StudentRun) -> None:
    """Where the command's pictures would be, what was predicted, written as they are."""
    assert run.test is not None
    content = run.test.logits.numpy().tobytes()
    figure: Any = SimpleNamespace(savefig=lambda file, **named: file.write(content))
    for name in ("curves.png", "confusion.png", "views.png"):
        save_png(figure, run.options.out / name)


def snapshot(root: Path) -> dict[str, Any]:
    """Every file but what a lock or a journal is kept in, byte for byte.

    Of last.pt, what it holds: how pickle refers to a text that it has had before depends on whether
    both are the same object, which they are not where a run was resumed.
    """
    return {
        str(path.relative_to(root)): plain(torch.load(path, weights_only=True))
        if path.name == "last.pt"
        else path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock" and "journal" not in path.name
    }


def plain(value: Any) -> Any:
    """Nested containers with the tensors' bytes in their places."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def is_one_line(said: list[Any]) -> bool:
    """Whether a command that refused said so in one line."""
    text = "".join(map(str, said)).replace("\r", "\n")
    return text.count("error: ") == 1 and "Traceback" not in text
