"""Write a finished run's student as a file that needs no kdcache, and check it."""

import argparse
from pathlib import Path

from kdcache import export
from kdcache.cli.console import say, warn
from kdcache.cli.parser import add_model_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    add_model_argument(parser, "student")
    parser.add_argument("--format", required=True, metavar="NAME", help=", ".join(export.FORMATS))
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="file to write (default: RUN/student.NAME)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the dataset's images, for the check (default: the run's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def run(arguments: argparse.Namespace) -> int:
    finished = export.open_run(arguments.run, arguments.student)
    try:
        file, check = export.export_student(
            finished,
            arguments.format,
            arguments.to,
            data=arguments.data,
            overwrite=arguments.overwrite,
        )
    except export.DisagreementError as error:
        warn(f"error: {error}")
        return 1
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    say(f"{check}\n{file}: {size}; beside it {file.name}.json and {export.CARD_FILE}")
    return 0
