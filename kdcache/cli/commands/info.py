"""What is in a cache, and how good its teacher is for the student's classes."""

import argparse
import json
from pathlib import Path
from typing import Any

from kdcache import distill, report
from kdcache.cli.console import say
from kdcache.cli.parser import add_image_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "cache", type=Path, nargs="+", metavar="CACHE", help="one, or several: an ensemble"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        help="draw images, their views and the teacher's top predictions",
    )
    add_image_arguments(parser, "for --picture")
    parser.add_argument(
        "--soft-targets", type=Path, metavar="PNG", help="draw how spread out the soft targets are"
    )
    parser.add_argument(
        "--skip-checksums", action="store_true", help="do not read the logits to check them"
    )


def run(arguments: argparse.Namespace) -> None:
    contents = report.summarize_cache(arguments.cache, check_logits=not arguments.skip_checksums)
    if arguments.json:
        say(json.dumps(contents.facts, indent=1))
    else:
        if contents.facts["ensemble"] is not None:
            say(f"{report.format_table(_teachers(contents.facts))}\n")
        _print_tables(contents.facts)
    if arguments.picture is not None:
        images = distill.load_images_of(contents.cache, arguments.data, dataset=arguments.dataset)
        report.draw_teacher_predictions(contents.cache, images, contents.targets, arguments.picture)
        say(f"\nviews and the teacher's top predictions: {arguments.picture}")
    if arguments.soft_targets is not None:
        class_names = contents.facts["dataset"]["class_names"]
        entropies, by_label = contents.entropies, contents.by_label
        report.soft_target_sheet(entropies, by_label, class_names, arguments.soft_targets)
        say(f"\nsoft targets: {arguments.soft_targets}")


def _print_tables(facts: dict[str, Any]) -> None:
    say(report.format_table(_outline(facts), ["what", "value"]))
    by_class = [
        {"class": name, "teacher's validation accuracy %": _percent(accuracy)}
        for name, accuracy in facts["teacher_validation_accuracy_by_class"].items()
    ]
    say(f"\n{report.format_table(by_class)}")
    entropies = []
    for temperature, quantiles in facts["soft_target_entropy"].items():
        numbers = {name: f"{nats:.3f}" for name, nats in quantiles.items()}
        entropies.append({"entropy (nats)": temperature} | numbers)
    say(f"\n{report.format_table(entropies)}")


def _teachers(facts: dict[str, Any]) -> list[dict[str, str | None]]:
    """Each teacher of an ensemble, and the ensemble itself."""
    head, rows = "validation accuracy %", []
    for one in facts["ensemble"]["teachers"]:
        rows.append({key: one[key] for key in ("teacher", "cache")})
        rows[-1][head] = _percent(one["validation_accuracy"])
    for combine, accuracy in facts["ensemble"]["validation_accuracy"].items():
        rows.append({"teacher": f"all, mean of {combine}", head: _percent(accuracy)})
    return rows


def _outline(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The facts that fit on a line each."""
    teacher, dataset, opening = facts["teacher"], facts["dataset"], facts["opening"]
    splits = [
        f"{split['rows']:,} x {split['views']} {name}" for name, split in facts["splits"].items()
    ]
    if facts["unlabelled_images"]:
        splits[0] += f" ({facts['unlabelled_images']:,} images without labels)"
    speed = f"{facts['bytes'] / opening['seconds'] / 1e9:.2f} GB/s"
    classes = len(dataset["class_names"])
    what = teacher.get("output", "classes")
    lines = {
        "cache": f"{facts['path']}, {facts['bytes'] / 1e6:.1f} MB",
        "fingerprint": facts["fingerprint"],
        "dataset": f"{dataset['name']}, {classes} classes, images {dataset['image_shape']}",
        "rows x views": ", ".join(splits),
        "views": f"{facts['views']['augment']}, seed {facts['views']['seed']}",
        "teacher": (
            f"{teacher['name']}, weights {teacher['weights']}, {teacher['classes']} {what}"
        ),
        "teacher's state dict": teacher["digest"],
        "input": f"{facts['input']['image_size']} px, {facts['input']['interpolation']}",
        "precision": facts["precision"],
        "made with": ", ".join(f"{name} {version}" for name, version in facts["software"].items()),
        "opened and checked": (
            f"{opening['checked']} in {opening['seconds'] * 1000:.1f} ms ({speed})"
        ),
        "projection": facts["projection"],
        "teacher's validation accuracy": f"{_percent(facts['teacher_validation_accuracy'])} %",
    }
    return [{"what": key, "value": value} for key, value in lines.items()]


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.1f}"
