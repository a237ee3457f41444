#!/usr/bin/env python3
"""Phase one: run a frozen teacher once over a dataset and store its raw logits in one HDF5 file."""

import sys
from pathlib import Path

from kdcache.cache import open_cache
from kdcache.cli import Progress, exit_code, parse_options, say
from kdcache.config import PrecomputeOptions
from kdcache.data import load_selected_images
from kdcache.distill import load_or_fit_probe
from kdcache.engine import PrecomputeReport, precompute, prepare_teacher
from kdcache.models import build_model
from kdcache.runtime import distributed, pick_device


def main(argv: list[str] | None = None) -> None:
    options = parse_options(PrecomputeOptions, argv, __doc__)
    processes = distributed.init()
    device = pick_device(options.device, processes.local_rank)
    model = processes.main_process_first(
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
    images = processes.main_process_first(lambda: load_selected_images(options))
    with Progress("teacher", unit="view", hidden=not processes.is_main) as progress:
        report = precompute(teacher, images, options, progress, processes)
    if processes.is_main:
        summarise(options.cache, report, processes.world_size)
    distributed.destroy()


def summarise(path: Path, report: PrecomputeReport, world: int) -> None:
    """What is in the cache now, how fast it came, and how good the teacher is for these classes."""
    cache = open_cache(path)
    classes = cache.manifest.teacher.classes
    say(f"{path}: {report.rows:,} rows of {classes} logits, {report.bytes / 1e6:.1f} MB")
    if report.already_complete:
        say("it was complete already; nothing was computed")
    else:
        of_how_many = f" in this of {world} processes" if world > 1 else ""
        speed = f"{report.rows_per_second:.1f} views/s"
        say(f"{report.computed:,} rows in {report.seconds:.1f} s: {speed}{of_how_many}")
    say(f"fingerprint {cache.fingerprint}")
    if len(cache.manifest.dataset.class_names) < 2:
        return  # images without labels
    quality = load_or_fit_probe(cache).validation
    say(
        f"the teacher, seen through a probe fitted on the training part, names {quality['accuracy']:.1%} of the"
        f" {len(cache.splits['validation'])} validation images right (NLL {quality['nll_calibrated']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
