"""Train a student for every combination of options and seeds."""

import argparse
import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache import cli, engine, report, runs, runtime, search
from kdcache.cli.console import Progress, say, warn
from kdcache.cli.parser import add_options, given, parse_setting
from kdcache.config import Role, TrainOptions, expanded
from kdcache.errors import DataError, OptionError

_MODULE = "kdcache.cli.commands.sweep"  # this module, which a helper runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("what to sweep")
    own.add_argument("cache", type=Path, metavar="CACHE")
    own.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="values of an option; may be repeated",
    )
    own.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="students of each combination"
    )
    own.add_argument(
        "--out",
        type=Path,
        default=Path("runs/sweep"),
        metavar="DIR",
        help="folder of the students' folders",
    )
    own.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the students, each on a GPU of its own",
    )
    own.add_argument(
        "--stop-early",
        action="store_true",
        help="end students that are below the median of the others",
    )
    # the sweep itself resumes what was interrupted
    add_options(parser, TrainOptions, without=("cache", "out", *TrainOptions.names(Role.START)))


def run(arguments: argparse.Namespace) -> int:
    if min(arguments.seeds, arguments.jobs) < 1:
        counts = f"{arguments.seeds} and {arguments.jobs}"
        raise OptionError("at least 1 for --seeds and --jobs", counts, "correct them")
    own, settings = given(TrainOptions, arguments), _settings(arguments.set)
    places = {name: own.pop(name) for name in ("cache", "out")}
    shared = expanded({name: value for name, value in own.items() if name not in settings})
    base = TrainOptions(**shared | places)
    seeds = range(base.seed, base.seed + arguments.seeds)
    students = search.combinations(base, settings, seeds, shared)
    idle = [name for name in {**own, **settings} if all(one.unused([name]) for one in students)]
    first = {name: values[0] for name, values in settings.items()}
    base.replace(**expanded(first, shared)).check_used(idle)
    combinations = math.prod(map(len, settings.values())) * arguments.seeds
    if len(students) < combinations:
        say(
            f"{combinations} combinations are {len(students)} students: some differ only in options"
            " that do nothing beside the others"
        )
    with (
        _helping(arguments.jobs, _command(arguments, base.words(shared))),
        Progress("sweep", "student") as whole,
        Progress("student", "step") as steps,
    ):
        data = engine.load_training_data(base)
        try:
            shown = cli.ShowSweep(whole, steps)
            search.train_all(students, data, shown, stop_early=arguments.stop_early)
        except KeyboardInterrupt:
            done = f"{len(search.finished(students))} of {len(students)} students are finished"
            raise KeyboardInterrupt(f"{done}; the same command goes on") from None
    missing = _report(students)
    return int(missing > 0 and not arguments.stop_early)


def _settings(texts: Sequence[str]) -> Mapping[str, tuple[Any, ...]]:
    """The values of each --set, by the option's name."""
    pairs = [parse_setting(TrainOptions, text) for text in texts]
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise OptionError(
            "each option in one --set", " ".join(texts), "separate its values by commas"
        )
    return settings


def _command(arguments: argparse.Namespace, shared: list[str]) -> list[str]:
    """The words that start the same sweep in another process."""
    words = [str(arguments.cache), "--out", str(arguments.out)]
    words += ["--seeds", str(arguments.seeds), *["--stop-early"] * arguments.stop_early]
    for text in arguments.set:
        words += ["--set", text]
    return words + shared


@contextlib.contextmanager
def _helping(jobs: int, words: list[str]) -> Iterator[None]:
    """`jobs` - 1 more processes of the same sweep, each on the next GPU if there are any.

    They have ended when the block has: whatever ends it early, a signal or an error, ends them.
    """
    gpus = runtime.gpu_count() if jobs > 1 else 0
    quiet = subprocess.DEVNULL
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, jobs):
            device = ["--device", f"cuda:{number % gpus}"] if gpus else []
            command = [sys.executable, "-m", _MODULE, str(jobs), *words, "--jobs", "1", *device]
            helpers.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))
        runtime.share_threads(jobs)
        yield
        for helper in helpers:
            helper.wait()
    finally:
        for helper in helpers:
            helper.kill()  # an epoch at most is lost, as by a signal that it could catch
        for helper in helpers:
            helper.wait()


def _report(students: Sequence[TrainOptions]) -> int:
    """Print the table of the finished students, the helpers' too; how many are not finished."""
    finished = []
    for options in search.finished(students):
        try:
            finished.append(runs.read_run(options.out))
        except DataError as error:
            warn(f"left out: {error}")
    if finished:
        comparison = report.compare_runs(finished)
        say(f"\n{comparison.table()}\n\n{comparison.words}")
    missing = len(students) - len(finished)
    if missing:
        say(
            f"{missing} of {len(students)} students are not finished:"
            " see failed.json or stopped.json in their folders"
        )
    return missing


if __name__ == "__main__":  # a helper that `--jobs` started, as one of so many
    runtime.share_threads(int(sys.argv[1]))
    sys.exit(cli.entry_point(["sweep", *sys.argv[2:]]))
