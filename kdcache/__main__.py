"""`python -m kdcache COMMAND`: look at what the two phases left."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kdcache.checkpoint import write_json, write_text
from kdcache.comparison import as_csv, comparison, format_table, grouped_words, shown_rows
from kdcache.config import OneLineParser
from kdcache.console import exit_code, say
from kdcache.errors import DamagedError
from kdcache.groups import check_comparable, group_runs, rows_of
from kdcache.inspection import TEMPERATURES, entropy, look, rerun_teacher, verify, verify_in_child
from kdcache.report import comparison_chart, soft_target_sheet
from kdcache.runs import find_runs, load_test_images
from kdcache.targets import load_images_of
from kdcache.webpage import page


def info(arguments: argparse.Namespace) -> None:
    """What is in a cache, and how good its teacher is for the student's classes."""
    contents = look(arguments.cache, check_logits=not arguments.skip_checksums)
    facts = contents.facts
    if arguments.json:
        say(json.dumps(facts, indent=1))
    else:
        say(format_table(_outline(facts), ["what", "value"]))
        by_class = facts["teacher_validation_accuracy_by_class"].items()
        say("\n" + format_table([{"class": name, "teacher's validation accuracy %": _percent(a)} for name, a in by_class]))
        entropies = facts["soft_target_entropy"].items()
        say(
            "\n" + format_table([{"entropy (nats)": name} | {k: f"{v:.3f}" for k, v in row.items()} for name, row in entropies])
        )
    if arguments.picture is not None:
        names = facts["dataset"]["class_names"]
        entropies = {f"T = {t}": entropy(contents.targets.train, t).numpy() for t in TEMPERATURES}
        soft_target_sheet(entropies, contents.by_label, names, arguments.picture)
        say(f"\npicture: {arguments.picture}")


def verify_command(arguments: argparse.Namespace) -> int:
    """Check every byte of a cache; with --live, also run its teacher again on some rows."""
    if arguments.untrusted:
        fault = verify_in_child(arguments.cache)
        say(fault or f"{arguments.cache}: every byte is the one that was written")
        return int(fault is not None)
    try:
        cache = verify(arguments.cache)
    except DamagedError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(f"{arguments.cache}: every byte is the one that was written (fingerprint {cache.fingerprint})")
    if not arguments.live:
        return 0
    images = load_images_of(cache, arguments.data)
    result = rerun_teacher(
        cache, images, arguments.live, weights=arguments.teacher_weights, device=arguments.device, seed=arguments.seed
    )
    say(format_table([{"what": key.replace("_", " "), "value": _short(value)} for key, value in result.items()]))
    return 0 if result["within"] else 1


def compare(arguments: argparse.Namespace) -> None:
    """A table of finished runs, and in words whether distilling helped; also as CSV, JSON, a chart or a web page."""
    runs, unfinished = find_runs(arguments.runs)
    check_comparable(runs)
    groups = group_runs(runs)
    rows, single = rows_of(groups), all(len(group.runs) == 1 for group in groups)
    single_rows, words = comparison([run.summary | {"name": run.name} for run in runs])
    if not single:
        words = grouped_words(rows, runs[0].summary.get("test_images"))
    say(format_table(single_rows if single else shown_rows(rows)) + f"\n\n{words}")
    if unfinished:
        say(f"unfinished, left out: {', '.join(map(str, unfinished))}")
    if arguments.csv is not None:
        write_text(arguments.csv, as_csv(rows))
        say(f"csv: {arguments.csv}")
    if arguments.json is not None:
        facts = {key: runs[0].summary.get(key) for key in ("dataset", "test_images", "test_digest")}
        write_json(arguments.json, facts | {"rows": rows, "words": words, "unfinished": [str(path) for path in unfinished]})
        say(f"json: {arguments.json}")
    if arguments.html is not None:
        write_text(arguments.html, page(groups, rows, words, unfinished, load_test_images(runs, arguments.data)))
        say(f"page: {arguments.html}")
    if arguments.chart is not None:
        comparison_chart(single_rows, arguments.chart)
        say(f"chart: {arguments.chart}")


def _outline(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The facts that fit on a line each."""
    teacher, dataset, opening = facts["teacher"], facts["dataset"], facts["opening"]
    rows = ", ".join(f"{part['rows']:,} x {part['views']} {split}" for split, part in facts["splits"].items())
    speed = f"{facts['bytes'] / opening['seconds'] / 1e9:.2f} GB/s"
    lines = {
        "cache": f"{facts['path']}, {facts['bytes'] / 1e6:.1f} MB",
        "fingerprint": facts["fingerprint"],
        "dataset": f"{dataset['name']}, {len(dataset['class_names'])} classes, images {dataset['image_shape']}",
        "rows x views": rows,
        "views": f"{facts['views']['augment']}, seed {facts['views']['seed']}",
        "teacher": f"{teacher['name']}, weights {teacher['weights']}, {teacher['classes']} classes",
        "teacher's state dict": teacher["digest"],
        "input": f"{facts['input']['image_size']} px, {facts['input']['interpolation']}",
        "precision": facts["precision"],
        "made with": ", ".join(f"{key} {value}" for key, value in facts["software"].items()),
        "opened and checked": f"{opening['checked']} in {opening['seconds'] * 1000:.1f} ms ({speed})",
        "projection": facts["projection"],
        "teacher's validation accuracy": f"{_percent(facts['teacher_validation_accuracy'])} %",
    }
    return [{"what": key, "value": value} for key, value in lines.items()]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int | None:
    parser = OneLineParser(prog="python -m kdcache", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    add = command("info", info)
    add.add_argument("cache", type=Path, metavar="CACHE")
    add.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add.add_argument("--picture", type=Path, metavar="PNG", help="draw the soft targets")
    add.add_argument("--skip-checksums", action="store_true", help="do not read the logits to check them")
    add = command("verify", verify_command)
    add.add_argument("cache", type=Path, metavar="CACHE")
    add.add_argument("--untrusted", action="store_true", help="in a child process with limits, for a file from a stranger")
    add.add_argument("--live", type=int, default=0, metavar="N", help="also run the teacher again on N random views")
    add.add_argument("--teacher-weights", metavar="FILE", help="the teacher's weights, if phase one had them from a file")
    add.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="folder with the dataset's images")
    add.add_argument("--device", default="auto", help="where the teacher runs")
    add.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of rows")
    add = command("compare", compare)
    add.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run, or of several such folders")
    add.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows with full precision, as CSV")
    add.add_argument("--json", type=Path, metavar="FILE", help="the same as JSON")
    add.add_argument("--html", type=Path, metavar="FILE", help="also write a page that opens offline")
    add.add_argument("--data", type=Path, metavar="DIR", help="folder with the dataset's images, to show some in the page")
    add.add_argument("--chart", type=Path, metavar="PNG", help="also draw the test accuracies")

    arguments = parser.parse_args(argv)
    return arguments.function(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main))
