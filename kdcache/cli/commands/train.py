"""Phase two: train a student from labels and the teacher's cached logits."""

import argparse
from pathlib import Path

from kdcache import cli, engine, report, runs, runtime
from kdcache.cli.console import Progress, leave_warnings_to_main, say
from kdcache.cli.parser import add_config, add_options, describe_use, options_from
from kdcache.config import TrainOptions, flag_of
from kdcache.errors import OptionError

_LEFT = (
    "student.pt, student.json, summary.json, predictions.pt, curves.png, confusion.png, views.png"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    describe_use(parser, TrainOptions)
    add_config(parser)
    parser.add_argument(
        "--resume",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="RUN",
        help="resume the interrupted run in this folder with its own options; alone,"
        " but code of your own, package.module:name, must be named again",
    )
    add_options(parser, TrainOptions)


def options_of(arguments: argparse.Namespace) -> TrainOptions:
    """The options of the run that a command line asks for.

    Raises OptionError where some cannot be used, DataError where --resume names no run.
    """
    given = dict(vars(arguments))
    folder = given.pop("resume", None)
    if folder is None:
        return options_from(TrainOptions, arguments)
    names = TrainOptions.names_of_code()
    code = {name: given.pop(name) for name in names if ":" in given.get(name, "")}
    if given:
        others = ", ".join(map(flag_of, given))
        remedy = f"omit them, or use --config {folder / runs.CONFIG_FILE} in place of --resume"
        raise OptionError("--resume alone: a run has options of its own", others, remedy)
    return runs.resumed_options(folder, **code)


def run(arguments: argparse.Namespace) -> None:
    options = options_of(arguments)
    processes = runtime.distributed.init()
    leave_warnings_to_main(processes.is_main)
    data = processes.main_process_first(lambda: engine.load_training_data(options))
    with Progress("student", unit="step", hidden=not processes.is_main) as progress:
        shown = cli.ShowTraining(progress, vis=options.vis)
        engine.train_student(options, data, shown, processes)
    if shown.trained:
        comparison = report.compare_runs([runs.read_run(options.out)])
        say(f"\n{comparison.table()}\n\n{options.out}: {_LEFT}")
    runtime.distributed.destroy()
