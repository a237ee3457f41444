#!/usr/bin/env python3
"""Phase two: train a student from labels and the teacher's cached logits; or, with --alpha 0, from labels alone."""

import sys

from kdcache.comparison import comparison, format_table
from kdcache.config import TrainOptions, parse_options
from kdcache.console import Progress, exit_code, say
from kdcache.distributed import join, leave
from kdcache.materials import load_materials
from kdcache.pictures import draw_pictures, show_batch
from kdcache.student_run import StudentRun, resumed_options


def main(argv: list[str] | None = None) -> None:
    options = parse_options(TrainOptions, argv, __doc__)
    if options.resume is not None:
        options = resumed_options(options.resume)
    processes = join()
    materials = processes.one_by_one(lambda: load_materials(options))
    with Progress("student", unit="step", hidden=not processes.first) as progress:
        show = show_batch if options.vis else None
        run = StudentRun(options, materials, progress.say, progress, show, processes, progress.show)
        run.train()
    summary = run.finish()
    if processes.first:
        draw_pictures(run)
        rows, _ = comparison([summary])
        say("\n" + format_table(rows))
        say(f"\n{options.out}: student.pt, student.json, summary.json, answers.pt, curves.png, confusion.png, views.png")
    leave()


if __name__ == "__main__":
    sys.exit(exit_code(main))
