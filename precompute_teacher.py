#!/usr/bin/env python3
"""Phase one: run a frozen teacher once over a dataset and store its raw logits in one HDF5 file."""

import sys
from pathlib import Path
from typing import Any

from kdcache.cache import open_cache
from kdcache.config import PrecomputeOptions, parse_options
from kdcache.console import Progress, exit_code, say
from kdcache.distributed import join, leave
from kdcache.images import load_chosen_images
from kdcache.models import build_model, pick_device
from kdcache.precompute import precompute
from kdcache.targets import load_or_fit_probe
from kdcache.teacher import prepare_teacher


def main(argv: list[str] | None = None) -> None:
    options = parse_options(PrecomputeOptions, argv, __doc__)
    processes = join()
    device = pick_device(options.device, processes.local_rank)
    model = processes.one_by_one(
        lambda: build_model(
            options.teacher,
            options.teacher_weights,
            seed=options.seed,
            image_size=options.image_size,
            mean=options.mean,
            std=options.std,
        )
    )
    teacher = prepare_teacher(model, device, options.precision, options.compile)
    images = processes.one_by_one(lambda: load_chosen_images(options))
    with Progress("teacher", unit="view", hidden=not processes.first) as progress:
        report = precompute(teacher, images, options, progress, processes)
    if processes.first:
        summarise(options.cache, report, processes.world)
    leave()


def summarise(path: Path, report: dict[str, Any], world: int) -> None:
    """What is in the cache now, how fast it came, and how good the teacher is for these classes."""
    cache = open_cache(path)
    classes = cache.manifest["teacher"]["classes"]
    say(f"{path}: {report['views']:,} rows of {classes} logits, {report['bytes'] / 1e6:.1f} MB")
    if report["already_complete"]:
        say("it was complete already; nothing was computed")
    else:
        of_how_many = f" in this of {world} processes" if world > 1 else ""
        speed = f"{report['views_per_second']:.1f} views/s"
        say(f"{report['computed']:,} rows in {report['seconds']:.1f} s: {speed}{of_how_many}")
    say(f"fingerprint {cache.fingerprint}")
    if len(cache.manifest["dataset"]["class_names"]) < 2:
        return  # images without labels
    quality = load_or_fit_probe(cache).validation
    say(
        f"the teacher, seen through a probe fitted on the training part, names {quality['accuracy']:.1%} of the"
        f" {len(cache.splits['validation'])} validation images right (NLL {quality['nll_calibrated']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
