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
from kdcache.cli.parser import add_options, given, parse_range, parse_setting
from kdcache.config import PRUNERS, SAMPLERS, Role, TrainOptions, expanded
from kdcache.errors import DataError, OptionError

_MODULE = "kdcache.cli.commands.sweep"  # this module, which a helper runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("what to sweep")
    own.add_argument("cache", type=Path, nargs="+", metavar="CACHE")
    own.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="values of an option; may be repeated",
    )
    own.add_argument(
        "--search",
        type=int,
        metavar="N",
        help="try N settings of --range and --set instead of every combination",
    )
    own.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="OPTION=LOW:HIGH[:log]",
        help="bounds of an option, for --search; may be repeated",
    )
    own.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="how --search chooses: by what was good so far (tpe, the default), or at random",
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
        "--pruner",
        choices=PRUNERS,
        default=PRUNERS[0],
        help="end students early that do worse than others did by the same epoch",
    )
    own.add_argument(
        "--storage",
        metavar="URL",
        help="database of the study, to share it between machines (default: a file in --out)",
    )
    own.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    # the sweep itself resumes what was interrupted
    add_options(parser, TrainOptions, without=("cache", "out", *TrainOptions.names(Role.START)))


def run(arguments: argparse.Namespace) -> int:
    if min(arguments.seeds, arguments.jobs) < 1:
        counts = f"{arguments.seeds} and {arguments.jobs}"
        raise OptionError("at least 1 for --seeds and --jobs", counts, "correct them")
    plan = _plan(arguments)
    with (
        _helping(arguments.jobs, _command(arguments, plan.base.words(plan.given))),
        Progress("sweep", "student") as whole,
        Progress("student", "step") as steps,
    ):
        data = engine.load_training_data(plan.base)
        sweep = search.Sweep(plan, data, cli.ShowSweep(whole, steps), helper=arguments.helper)
        try:
            sweep.run()
        except KeyboardInterrupt:
            done = len(search.finished(sweep.students))
            said = f"{done} of {sweep.total} students are finished; the same command goes on"
            raise KeyboardInterrupt(said) from None
    return int(_report(sweep) > 0)


def _plan(arguments: argparse.Namespace) -> "search.SweepPlan":
    """What is asked for, with a line where that is less than it seems."""
    own, choices = given(TrainOptions, arguments), _settings(arguments.set)
    if arguments.sampler and arguments.search is None:
        raise OptionError("--sampler with --search", "no --search", "omit --sampler")
    if arguments.search is not None and arguments.search < 1:
        raise OptionError("at least 1 for --search", f"{arguments.search}", "correct it")
    places = {name: own.pop(name) for name in ("cache", "out")}
    shared = expanded({name: value for name, value in own.items() if name not in choices})
    base = TrainOptions(**shared | places)
    spans = dict(parse_range(TrainOptions, text) for text in arguments.range)
    plan = search.SweepPlan(
        base=base,
        choices=choices,
        spans=spans,
        given=shared.keys(),
        seeds=range(base.seed, base.seed + arguments.seeds),
        search=arguments.search,
        sampler=arguments.sampler or SAMPLERS[0],
        pruner=arguments.pruner,
        storage=arguments.storage,
    )
    if plan.search is not None:
        return plan
    students = [options for _, options in plan.grid]
    idle = [name for name in {**own, **choices} if all(one.unused([name]) for one in students)]
    first = {name: values[0] for name, values in choices.items()}
    base.replace(**expanded(first, shared)).check_used(idle)
    combinations = math.prod(map(len, choices.values())) * arguments.seeds
    if len(students) < combinations:
        say(
            f"{combinations} combinations are {len(students)} students: some differ only in options"
            " that do nothing beside the others"
        )
    return plan


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
    words = [*map(str, arguments.cache), "--out", str(arguments.out)]
    words += ["--seeds", str(arguments.seeds), "--pruner", arguments.pruner, "--helper"]
    for flag in ("--search", "--sampler", "--storage"):
        value = getattr(arguments, flag[2:])
        words += [flag, str(value)] if value is not None else []
    for flag in ("--set", "--range"):
        for text in getattr(arguments, flag[2:]):
            words += [flag, text]
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


def _report(sweep: "search.Sweep") -> int:
    """Print the table of the finished students, the helpers' too; how many have no result."""
    finished, students = [], sweep.students
    for options in search.finished(students):
        try:
            finished.append(runs.read_run(options.out))
        except DataError as error:
            warn(f"left out: {error}")
    if finished:
        comparison = report.compare_runs(finished)
        say(f"\n{comparison.table()}\n\n{comparison.words}")
    pruned, failed = sweep.outcomes()
    if pruned:
        say(f"the pruner ended {len(pruned)} of {len(students)} students early")
    for name, error in failed:
        say(f"{name} failed: {error}")
    missing = len(students) - len(finished) - len(pruned)
    if missing:
        say(f"{missing} of {len(students)} students are not finished; the same command tries again")
    return missing


if __name__ == "__main__":  # a helper that `--jobs` started, as one of so many
    runtime.share_threads(int(sys.argv[1]))
    sys.exit(cli.entry_point(["sweep", *sys.argv[2:]]))
