"""How fast both phases run here, beside bare loops and the reference loop."""

import argparse
from pathlib import Path
from typing import Any

from kdcache import bench, runtime
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

    with Progress("bench", "measurement") as progress:
        shown = 0

        def tell(facts: dict[str, Any], found: "list[bench.Measurement]") -> None:
            nonlocal shown
            if not found:
                environment = (f"{key} {value}" for key, value in facts["environment"].items())
                progress.say(f"{', '.join(environment)}\n\n{bench.table_head()}")
            for row in bench.table_rows(found[shown:]):
                progress.say(bench.table_line(row))
            shown = len(found)
            if arguments.json is not None:
                results = facts | {"measurements": [one.as_dict() for one in found]}
                runtime.write_json(arguments.json, results)

        found = bench.run(options, progress, tell)
    say("")
    for remark in bench.remarks(found):
        say(remark)
    say("unit x: a ratio, measured interleaved; all other numbers are this machine's own")
    if arguments.quick:
        say("--quick: models so small that the targets are not meant for them")
    if arguments.picture is not None:
        bench.ratio_chart(found, arguments.picture)
        say(f"picture: {arguments.picture}")
    return int(any(one.fault is not None for one in found))
