"""Phase two: train a student from labels and the teacher's cached logits."""

import argparse

from kdcache import cli, engine, report, runs, runtime
from kdcache.cli.console import Progress, leave_warnings_to_main, say
from kdcache.cli.parser import add_options, given
from kdcache.config import TrainOptions

_LEFT = (
    "student.pt, student.json, summary.json, predictions.pt, curves.png, confusion.png, views.png"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, TrainOptions)


def run(arguments: argparse.Namespace) -> None:
    options = TrainOptions(**given(TrainOptions, arguments))
    if options.resume is not None:
        options = runs.resumed_options(options.resume)
    processes = runtime.distributed.init()
    leave_warnings_to_main(processes.is_main)
    data = processes.main_process_first(lambda: engine.load_training_data(options))
    with Progress("student", unit="step", hidden=not processes.is_main) as progress:
        shown = cli.ShowTraining(progress, vis=options.vis)
        engine.train_student(options, data, shown, processes)
    if processes.is_main:
        comparison = report.compare_runs([runs.read_run(options.out)])
        say(f"\n{comparison.table()}\n\n{options.out}: {_LEFT}")
    runtime.distributed.destroy()
