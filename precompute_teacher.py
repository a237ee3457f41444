#!/usr/bin/env python3
"""Phase one: run a frozen teacher once over a dataset and store its raw logits in one HDF5 file."""

import sys

from kdcache.cache import open_cache
from kdcache.config import PrecomputeOptions, parse_options
from kdcache.console import Progress, exit_code, say
from kdcache.images import load_images
from kdcache.models import build_model, pick_device
from kdcache.precompute import precompute, prepare_teacher
from kdcache.targets import load_or_fit_probe


def main(argv: list[str] | None = None) -> None:
    options = parse_options(PrecomputeOptions, argv, __doc__)
    device = pick_device(options.device)
    model = build_model(
        options.teacher,
        options.teacher_weights,
        seed=options.seed,
        image_size=options.image_size,
        mean=options.mean,
        std=options.std,
    )
    teacher = prepare_teacher(model, device, options.precision)
    images = load_images(
        options.dataset or "cifar10",
        options.data,
        limit=options.limit,
        store_size=options.store_size,
        split_seed=options.split_seed,
    )
    with Progress("teacher", unit="view") as progress:
        report = precompute(teacher, images, options, progress)
    cache = open_cache(options.cache)

    say(f"{options.cache}: {report['views']:,} rows of {teacher.classes} logits, {report['bytes'] / 1e6:.1f} MB")
    if report["already_complete"]:
        say("it was complete already; nothing was computed")
    else:
        say(f"{report['computed']:,} rows in {report['seconds']:.1f} s: {report['views_per_second']:.1f} views/s")
    say(f"fingerprint {cache.fingerprint}")
    quality = load_or_fit_probe(cache).validation
    say(
        f"the teacher, seen through a probe fitted on the training part, names {quality['accuracy']:.1%} of the"
        f" {len(cache.splits['validation'])} validation images right (NLL {quality['nll_calibrated']:.3f})"
    )


if __name__ == "__main__":
    sys.exit(exit_code(main))
