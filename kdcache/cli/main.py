"""`python -m kdcache COMMAND`: look at what the two phases left."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kdcache.bench import QUICK, BenchOptions, chosen, ratio_chart, remarks, run, table_rows
from kdcache.cache import verify, verify_in_child
from kdcache.cli.console import Progress, exit_code, say
from kdcache.cli.parser import OneLineParser, add_options, parse_options, parse_setting
from kdcache.config import TrainOptions
from kdcache.data import image_files
from kdcache.distill import load_images_of
from kdcache.engine import load_training_data
from kdcache.errors import CacheDamagedError, KdcacheError
from kdcache.export import CARD_FILE, FORMATS, DisagreementError, export_student, open_run, predict
from kdcache.report import (
    as_csv,
    check_comparable,
    comparison,
    comparison_chart,
    draw_teacher_predictions,
    format_table,
    group_runs,
    grouped_words,
    page,
    rerun_teacher,
    rows_of,
    shown_rows,
    soft_target_sheet,
    summarize_cache,
)
from kdcache.runs import find_runs, load_test_images, read_summary
from kdcache.runtime import pick_device, write_json, write_text
from kdcache.search import combinations, finished, start_helpers, train_all


def info(arguments: argparse.Namespace) -> None:
    """What is in a cache, and how good its teacher is for the student's classes."""
    contents = summarize_cache(arguments.cache, check_logits=not arguments.skip_checksums)
    facts = contents.facts
    if arguments.json:
        say(json.dumps(facts, indent=1))
    else:
        say(format_table(_outline(facts), ["what", "value"]))
        by_class = facts["teacher_validation_accuracy_by_class"].items()
        say(
            "\n"
            + format_table(
                [
                    {"class": name, "teacher's validation accuracy %": _percent(a)}
                    for name, a in by_class
                ]
            )
        )
        entropies = facts["soft_target_entropy"].items()
        say(
            "\n"
            + format_table(
                [
                    {"entropy (nats)": name} | {k: f"{v:.3f}" for k, v in row.items()}
                    for name, row in entropies
                ]
            )
        )
    if arguments.picture is not None:
        draw_teacher_predictions(
            contents.cache,
            load_images_of(contents.cache, arguments.data),
            contents.targets,
            arguments.picture,
        )
        say(f"\nviews and the teacher's top predictions: {arguments.picture}")
    if arguments.soft_targets is not None:
        names = facts["dataset"]["class_names"]
        soft_target_sheet(contents.entropies, contents.by_label, names, arguments.soft_targets)
        say(f"\nsoft targets: {arguments.soft_targets}")


def verify_command(arguments: argparse.Namespace) -> int:
    """Check every byte of a cache; with --live, also run its teacher again on some rows."""
    if arguments.untrusted:
        fault = verify_in_child(arguments.cache)
        say(fault or f"{arguments.cache}: every byte is the one that was written")
        return int(fault is not None)
    try:
        cache = verify(arguments.cache)
    except CacheDamagedError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(
        f"{arguments.cache}: every byte is the one that was written (fingerprint {cache.fingerprint})"
    )
    if not arguments.live:
        return 0
    images = load_images_of(cache, arguments.data)
    result = rerun_teacher(
        cache,
        images,
        arguments.live,
        weights=arguments.teacher_weights,
        device=arguments.device,
        seed=arguments.seed,
    )
    say(
        format_table(
            [
                {"what": key.replace("_", " "), "value": _short(value)}
                for key, value in result.items()
            ]
        )
    )
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
        write_json(
            arguments.json,
            facts
            | {"rows": rows, "words": words, "unfinished": [str(path) for path in unfinished]},
        )
        say(f"json: {arguments.json}")
    if arguments.html is not None:
        write_text(
            arguments.html,
            page(groups, rows, words, unfinished, load_test_images(runs, arguments.data)),
        )
        say(f"page: {arguments.html}")
    if arguments.chart is not None:
        comparison_chart(single_rows, arguments.chart)
        say(f"chart: {arguments.chart}")


def export_command(arguments: argparse.Namespace) -> int:
    """Write a finished run's student in a format that others load, check it, and put a model card beside it."""
    run = open_run(arguments.run)
    try:
        file, check = export_student(
            run, arguments.format, arguments.to, data=arguments.data, overwrite=arguments.overwrite
        )
    except DisagreementError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    say(
        f"{check}\n{file}: {file.stat().st_size / 1e6:.1f} MB; beside it {file.name}.json and {CARD_FILE}"
    )
    return 0


def predict_command(arguments: argparse.Namespace) -> int:
    """What a finished run's student takes images for."""
    run, paths, faults = open_run(arguments.run), image_files(arguments.images), []
    if run.card.image_shape is None:
        sys.stderr.write(
            f"{arguments.run} does not record its images' size: taken to be the student's input size\n"
        )

    def on_fault(error: KdcacheError) -> None:
        faults.append(error)
        sys.stderr.write(f"error: {error}\n")

    device = pick_device(arguments.device)
    for prediction in predict(run, paths, top=arguments.top, device=device, on_fault=on_fault):
        if arguments.json:
            predictions = [
                {"class": name, "probability": share} for name, share in prediction.predictions
            ]
            say(json.dumps({"image": str(prediction.path), "predictions": predictions}))
        else:
            predictions = ", ".join(f"{name} {share:.1%}" for name, share in prediction.predictions)
            say(_printable(f"{prediction.path}: {predictions}"))
    return int(bool(faults))


def bench_command(arguments: argparse.Namespace) -> int:
    """How fast both phases run here, beside bare loops and the usual script, all in one run."""
    given = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("function", "quick", "json", "picture")
    }
    options = BenchOptions(**(QUICK if arguments.quick else {}) | given)
    chosen(options)
    for file in (arguments.json, arguments.picture):
        if (
            file is not None and not file.absolute().parent.is_dir()
        ):  # found before the hours, not after
            raise KdcacheError(f"a folder for {file}", "none", "make it or give another one")

    def keep(results: dict[str, object]) -> None:
        if arguments.json is not None:
            write_json(arguments.json, results)

    with Progress("bench", "measurement") as progress:
        environment, found = run(options, progress, keep)
    say(", ".join(f"{key} {value}" for key, value in environment.items()) + "\n")
    say(format_table(table_rows(found)))
    say(
        "\n"
        + "\n".join(
            [
                *remarks(found),
                "unit x: a ratio, measured in turns; all other numbers are this machine's own",
            ]
        )
    )
    if arguments.quick:
        say("--quick: models so small that the targets are not meant for them")
    if arguments.picture is not None:
        ratio_chart(found, arguments.picture)
        say(f"picture: {arguments.picture}")
    return int(any(one.fault is not None for one in found))


def _printable(text: str) -> str:
    """File names may hold anything; a terminal should not."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def sweep_command(arguments: argparse.Namespace, others: list[str], words: list[str]) -> int:
    """Train a student for every combination of options and seeds; all options of train_student.py apply."""
    given = ["--cache", str(arguments.cache), "--out", str(arguments.out), *others]
    base = parse_options(TrainOptions, given, sweep_command.__doc__)
    if min(arguments.seeds, arguments.jobs) < 1:
        raise KdcacheError(
            "at least 1 for --seeds and --jobs",
            f"{arguments.seeds} and {arguments.jobs}",
            "correct them",
        )
    pairs = [parse_setting(TrainOptions, text) for text in arguments.set]
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise KdcacheError(
            "each option in one --set", " ".join(arguments.set), "separate its values by commas"
        )
    students = combinations(base, settings, range(base.seed, base.seed + arguments.seeds))
    helpers = [] if arguments.jobs == 1 else start_helpers(arguments.jobs, words)
    training_data = load_training_data(base)
    with Progress("sweep", "student") as whole, Progress("student", "step") as one:
        try:
            train_all(
                students, training_data, whole.say, whole, one, arguments.stop_early, one.show
            )
        except KeyboardInterrupt:
            done = f"{len(finished(students))} of {len(students)} students are finished"
            raise KeyboardInterrupt(f"{done}; the same command goes on") from None
    for helper in helpers:
        helper.wait()
    summaries = [
        read_summary(options.out) for options in finished(students)
    ]  # the helpers' students are among them
    if summaries:
        say("\n" + format_table(comparison(summaries)[0]))
    missing = len(students) - len(summaries)
    if missing:
        say(
            f"{missing} of {len(students)} students are not finished: see failed.json or stopped.json in their folders"
        )
    return int(missing > 0 and not arguments.stop_early)


def _outline(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The facts that fit on a line each."""
    teacher, dataset, opening = facts["teacher"], facts["dataset"], facts["opening"]
    rows = ", ".join(
        f"{part['rows']:,} x {part['views']} {split}" for split, part in facts["splits"].items()
    )
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


def make_parser() -> OneLineParser:
    """The parser of all commands; what it returns has the command's function."""
    parser = OneLineParser(prog="python -m kdcache", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        added.set_defaults(function=function)
        return added

    add = command("info", info)
    add.add_argument("cache", type=Path, metavar="CACHE")
    add.add_argument("--json", action="store_true", help="print JSON instead of tables")
    add.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        help="draw images, their views and the teacher's top predictions",
    )
    add.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder with the images, for --picture",
    )
    add.add_argument(
        "--soft-targets", type=Path, metavar="PNG", help="draw how spread out the soft targets are"
    )
    add.add_argument(
        "--skip-checksums", action="store_true", help="do not read the logits to check them"
    )
    add = command("verify", verify_command)
    add.add_argument("cache", type=Path, metavar="CACHE")
    add.add_argument(
        "--untrusted",
        action="store_true",
        help="in a child process with limits, for a file from a stranger",
    )
    add.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="N",
        help="also run the teacher again on N random views",
    )
    add.add_argument(
        "--teacher-weights",
        metavar="FILE",
        help="the teacher's weights, if phase one had them from a file",
    )
    add.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder with the dataset's images",
    )
    add.add_argument("--device", default="auto", help="where the teacher runs")
    add.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of rows")
    add = command("compare", compare)
    add.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a finished run, or of several such folders",
    )
    add.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write the rows with full precision, as CSV"
    )
    add.add_argument("--json", type=Path, metavar="FILE", help="the same as JSON")
    add.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page that opens offline"
    )
    add.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with the dataset's images, to show some in the page",
    )
    add.add_argument("--chart", type=Path, metavar="PNG", help="also draw the test accuracies")
    add = command("export", export_command)
    add.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    add.add_argument("--format", required=True, metavar="NAME", help=", ".join(FORMATS))
    add.add_argument(
        "--to", type=Path, metavar="FILE", help="file to write (default: RUN/student.NAME)"
    )
    add.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the dataset's images, for the check (default: the run's)",
    )
    add.add_argument("--overwrite", action="store_true", help="replace what is there")
    add = command("predict", predict_command)
    add.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    add.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    add.add_argument("--top", type=int, default=3, metavar="N", help="predictions of an image")
    add.add_argument("--json", action="store_true", help="print one JSON object a line")
    add.add_argument("--device", default="auto", help="where the student runs")
    add = command("bench", bench_command)
    add_options(
        add, BenchOptions, without=("data", "mean", "std")
    )  # the images are the embedded ones
    add.add_argument(
        "--quick", action="store_true", help="tiny models, to see in seconds that everything works"
    )
    add.add_argument("--json", type=Path, metavar="FILE", help="write all raw numbers there")
    add.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw the ratios and their targets"
    )

    add = command("sweep", sweep_command)
    add.add_argument("cache", type=Path, metavar="CACHE")
    add.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=A,B",
        help="values of an option; may be repeated",
    )
    add.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="students of each combination"
    )
    add.add_argument(
        "--out",
        type=Path,
        default=Path("runs/sweep"),
        metavar="DIR",
        help="folder of the students' folders",
    )
    add.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the students, each on a GPU of its own",
    )
    add.add_argument(
        "--stop-early",
        action="store_true",
        help="end students that are below the median of the others",
    )

    return parser


def main(argv: list[str] | None = None) -> int | None:
    parser = make_parser()
    words = sys.argv[1:] if argv is None else argv
    arguments, others = parser.parse_known_args(words)
    if arguments.function is sweep_command:
        return sweep_command(arguments, others, words)
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return arguments.function(arguments)


if __name__ == "__main__":
    sys.exit(exit_code(main))
