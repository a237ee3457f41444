"""Check every byte of a cache and its probe; with --live, also its teacher on some rows."""

import argparse
import glob
from pathlib import Path
from typing import Any

from kdcache import cache, distill, report
from kdcache.cli.console import say, warn
from kdcache.cli.parser import add_image_arguments
from kdcache.errors import CacheDamagedError, DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cache", type=Path, metavar="CACHE")
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="in a child process with limits, for a file from a stranger",
    )
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="N",
        help="also run the teacher again on N random views",
    )
    parser.add_argument(
        "--teacher-weights",
        metavar="FILE",
        help="the teacher's weights, if phase one had them from a file",
    )
    add_image_arguments(parser, "for --live")
    parser.add_argument("--device", default="auto", help="where the teacher runs")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of that choice")


def run(arguments: argparse.Namespace) -> int:
    path = arguments.cache
    if arguments.untrusted:
        fault = cache.verify_in_child(path)
        say(fault or f"{path}: every byte is the one that was written")
        return int(fault is not None)
    try:
        opened = cache.verify_cache(path)
    except CacheDamagedError as error:
        warn(f"error: {error}")
        return 1
    say(f"{path}: every byte is the one that was written (fingerprint {opened.fingerprint})")
    if any(path.parent.glob(f"{glob.escape(path.name)}.probe-*.pt")):  # or torch is not needed
        try:
            said = distill.verify_probe(opened)
        except DataError as error:
            warn(f"error: {error}")
            return 1
        if said is not None:
            say(said)
    if not arguments.live:
        return 0
    result = report.rerun_teacher(
        opened,
        distill.load_images_of(opened, arguments.data, dataset=arguments.dataset),
        arguments.live,
        weights=arguments.teacher_weights,
        device=arguments.device,
        seed=arguments.seed,
    )
    within = result.pop("within")
    rows = [
        {"what": key.replace("_", " "), "value": _short(value)} for key, value in result.items()
    ]
    say(report.format_table(rows))
    if within:
        say("the teacher still gives these logits, but for what its precision explains")
        return 0
    warn("error: the teacher gives other logits than these; run phase one again with --restart")
    return 1


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
