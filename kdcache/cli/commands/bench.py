"""How fast both phases run here, beside bare loops and the reference loop."""

import argparse
from pathlib import Path

from kdcache import bench, report, runtime
from kdcache.cli.console import Progress, say
from kdcache.cli.parser import add_options, given
from kdcache.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # the images are the embedded ones
    add_options(parser, bench.BenchOptions, without=("data", "mean", "std"))
    parser.add_argument(
        "--quick", action="store_true", help="tiny models, to see in seconds that everything works"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers there")
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw the ratios and their targets"
    )


def run(arguments: argparse.Namespace) -> int:
    preset = bench.QUICK if arguments.quick else {}
    options = bench.BenchOptions(**(preset | given(bench.BenchOptions, arguments)))
    bench.chosen(options)  # refuses what it does not know
    for file in (arguments.json, arguments.picture):
        if file is not None and not file.absolute().parent.is_dir():  # found before the hours
            raise OptionError(f"a folder for {file}", "none", "make it or give another one")

    def keep(results: dict[str, object]) -> None:
        if arguments.json is not None:
            runtime.write_json(arguments.json, results)

    with Progress("bench", "measurement") as progress:
        environment, found = bench.run(options, progress, keep)
    say(", ".join(f"{key} {value}" for key, value in environment.items()) + "\n")
    say(f"{report.format_table(bench.table_rows(found))}\n")
    for remark in bench.remarks(found):
        say(remark)
    say("unit x: a ratio, measured interleaved; all other numbers are this machine's own")
    if arguments.quick:
        say("--quick: models so small that the targets are not meant for them")
    if arguments.picture is not None:
        bench.ratio_chart(found, arguments.picture)
        say(f"picture: {arguments.picture}")
    return int(any(one.fault is not None for one in found))
