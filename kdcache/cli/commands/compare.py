"""Finished runs side by side, and in words whether distilling helped."""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from kdcache import report, runs, runtime
from kdcache.cli.console import say, warn
from kdcache.errors import DataError, OptionError

_PACKAGES_OF_THE_PAGE = ("jinja2", "plotly", "scipy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a finished run, or of several such folders",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the rows with full precision, as CSV"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same as JSON")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page that opens offline"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with the dataset's images, to show some in the page",
    )
    parser.add_argument("--chart", type=Path, metavar="PNG", help="also draw the test accuracies")


def run(arguments: argparse.Namespace) -> int:
    faults: list[str] = []

    def leave_out(why: object) -> None:
        faults.append(f"{why}")
        warn(f"left out: {why}")

    found, unfinished = runs.find_runs(arguments.runs, leave_out)
    if arguments.html is not None:
        found = _with_predictions(found, leave_out)
    found, odd = report.split_by_test_images(found)
    for one in odd:
        leave_out(f"{one.folder}, tested on other images than {found[0].folder}")
    comparison = report.compare_runs(found, unfinished)
    say(f"{comparison.table()}\n\n{comparison.words}")
    if unfinished:
        say(f"unfinished, left out: {', '.join(map(str, unfinished))}")
    if arguments.csv is not None:
        runtime.write_text(arguments.csv, comparison.to_csv())
        say(f"csv: {arguments.csv}")
    if arguments.json is not None:
        runtime.write_json(arguments.json, comparison.to_json())
        say(f"json: {arguments.json}")
    if arguments.chart is not None:
        report.comparison_chart(comparison.chart_rows(), arguments.chart)
        say(f"chart: {arguments.chart}")
    if arguments.html is not None:  # last: it may need packages that are not installed
        _check_packages()
        images = report.load_test_images(found, arguments.data)
        runtime.write_text(arguments.html, report.render_page(comparison, images))
        say(f"page: {arguments.html}")
    return int(bool(faults))


def _with_predictions(
    found: "list[runs.Run]", leave_out: Callable[[DataError], None]
) -> "list[runs.Run]":
    """Those whose predictions and class names can be read, as far as they left any."""
    sound = []
    for one in found:
        try:
            _ = one.predictions, one.class_names
        except DataError as error:
            if len(found) == 1:
                raise
            leave_out(error)
        else:
            sound.append(one)
    return sound or found


def _check_packages() -> None:
    """Raise OptionError where the page cannot be made."""
    missing = [name for name in _PACKAGES_OF_THE_PAGE if find_spec(name) is None]
    if missing:
        expected = f"the packages {', '.join(_PACKAGES_OF_THE_PAGE)} for --html"
        remedy = "pip install 'kdcache[report]', or omit --html"
        raise OptionError(expected, f"no {', '.join(missing)}", remedy)
