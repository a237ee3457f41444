"""Phase two: train a student from labels and the teacher's cached logits."""

import argparse

from kdcache import engine, report, runtime
from kdcache.cli.console import Progress, say
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
        options = engine.resumed_options(options.resume)
    processes = runtime.distributed.init()
    training_data = processes.main_process_first(lambda: engine.load_training_data(options))
    with Progress("student", unit="step", hidden=not processes.is_main) as progress:
        show = report.show_batch if options.vis else None
        student = engine.StudentRun(
            options, training_data, progress.say, progress, show, processes, progress.show
        )
        student.train()
    summary = student.finish()
    if processes.is_main:
        report.draw_pictures(student)
        rows, _ = report.comparison([summary])
        say(f"\n{report.format_table(rows)}\n\n{options.out}: {_LEFT}")
    runtime.distributed.destroy()
