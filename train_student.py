#!/usr/bin/env python3
"""Phase two: train a student from labels and the teacher's cached logits; or, with --alpha 0, from labels alone."""

import sys

from kdcache.cli import Progress, exit_code, parse_options, say
from kdcache.config import TrainOptions
from kdcache.engine import StudentRun, load_training_data
from kdcache.report import compare_runs, draw_pictures, show_batch
from kdcache.runs import read_run, resumed_options
from kdcache.runtime import distributed


def main(argv: list[str] | None = None) -> None:
    options = parse_options(TrainOptions, argv, __doc__)
    if options.resume is not None:
        options = resumed_options(options.resume)
    processes = distributed.init()
    training_data = processes.main_process_first(lambda: load_training_data(options))
    with Progress("student", unit="step", hidden=not processes.is_main) as progress:
        show = show_batch if options.vis else None
        run = StudentRun(
            options, training_data, progress.say, progress, show, processes, progress.show
        )
        run.train()
    run.finish()
    if processes.is_main:
        draw_pictures(run)
        say(f"\n{compare_runs([read_run(options.out)]).table()}")
        say(
            f"\n{options.out}: student.pt, student.json, summary.json, predictions.pt, curves.png, confusion.png, views.png"
        )
    distributed.destroy()


if __name__ == "__main__":
    sys.exit(exit_code(main))
