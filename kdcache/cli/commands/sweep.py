"""Train a student for every combination of options and seeds."""

import argparse
import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache import cli, engine, report, runs, runtime, search
from kdcache.cli.console import Progress, say, warn
from kdcache.cli.parser import add_options, given, parse_range, parse_setting
from kdcache.config import PRUNERS, SAMPLERS, Role, TrainOptions, expanded
from kdcache.errors import DataError, OptionError

# A forked process has the imports, the images and the cache at once, and shares their memory. With
# GPUs, and on macOS, whose libraries do not survive it, processes start from nothing.
_FORKS = sys.platform == "linux"


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
        metavar="N",
        help="processes that share the students, each on a GPU of its own (default: 1, or on a CPU"
        " one a core, as far as memory allows)",
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
    # the sweep itself resumes what was interrupted
    add_options(parser, TrainOptions, without=("cache", "out", *TrainOptions.names(Role.START)))


def run(arguments: argparse.Namespace) -> int:
    counts = {"--seeds": arguments.seeds, "--jobs": arguments.jobs}
    for flag, count in counts.items():
        if count is not None and count < 1:
            raise OptionError(f"at least 1 for {flag}", f"{count}", "correct it")
    plan = _plan(arguments)
    with Progress("sweep", "student") as whole, Progress("student", "step") as steps:
        with runtime.single_thread() as cores:  # a process with more threads cannot be forked
            data = engine.load_training_data(plan.base)
            sweep = search.Sweep(plan, data, cli.ShowSweep(whole, steps))
            jobs = arguments.jobs or search.pick_jobs(plan, data, cores)
        try:
            with _helping(jobs, plan, data):
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
        given=tuple(shared),
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


@contextlib.contextmanager
def _helping(jobs: int, plan: "search.SweepPlan", data: "engine.TrainingData") -> Iterator[None]:
    """`jobs` - 1 more processes of the same sweep, each on the next GPU if there are any.

    They have ended when the block has: whatever ends it early, a signal or an error, ends them.
    """
    import multiprocessing  # slow to import, and only sweeps need it

    gpus = runtime.gpu_count() if jobs > 1 else 0
    forks = _FORKS and not gpus
    processes: Any = multiprocessing.get_context("fork" if forks else "spawn")
    helpers: list[multiprocessing.Process] = []
    try:
        for number in range(1, jobs):
            base = plan.base.replace(device=f"cuda:{number % gpus}") if gpus else plan.base
            own = dataclasses.replace(plan, base=base), data if forks else None, jobs
            helpers.append(processes.Process(target=_help, args=own))
            helpers[-1].start()
        runtime.share_threads(jobs)
        yield
        for helper in helpers:
            helper.join()
    finally:
        for helper in helpers:
            helper.kill()  # an epoch at most is lost, as by a signal that it could catch
        for helper in helpers:
            helper.join()


def _help(plan: "search.SweepPlan", data: "engine.TrainingData | None", jobs: int) -> None:
    """Be one of several processes of a sweep, a silent one."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    runtime.share_threads(jobs)
    with Progress("", "student", hidden=True) as whole, Progress("", "step", hidden=True) as steps:
        callbacks = cli.ShowSweep(whole, steps)
        data = data or engine.load_training_data(plan.base)
        search.Sweep(plan, data, callbacks, helper=True).run()


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
