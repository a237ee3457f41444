"""`python -m kdcache COMMAND`: look at what the two phases left."""

import argparse
import sys
from pathlib import Path

from kdcache.checkpoint import read_summary
from kdcache.comparison import comparison, format_table
from kdcache.config import OneLineParser
from kdcache.console import exit_code, say
from kdcache.errors import InputError
from kdcache.report import comparison_chart


def compare(arguments: argparse.Namespace) -> None:
    """A table of finished runs, a chart, and in words whether distilling helped."""
    summaries = [read_summary(folder) for folder in arguments.runs]
    other = next((entry for entry in summaries if entry["test_digest"] != summaries[0]["test_digest"]), None)
    if other is not None:
        raise InputError(
            f"runs tested on the same images as {summaries[0]['name']} ({summaries[0]['dataset']})",
            f"{other['name']} ({other['dataset']})",
            "compare runs of one dataset",
        )
    rows, words = comparison(summaries)
    say(format_table(rows) + f"\n\n{words}")
    if arguments.chart is not None:
        comparison_chart(rows, arguments.chart)
        say(f"chart: {arguments.chart}")


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m kdcache", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("compare", help=compare.__doc__, description=compare.__doc__)
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    command.add_argument("--chart", type=Path, metavar="PNG", help="also draw the test accuracies")
    command.set_defaults(function=compare)
    arguments = parser.parse_args(argv)
    arguments.function(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main))
