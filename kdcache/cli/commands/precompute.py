"""Phase one: run a frozen teacher once over a dataset and store its logits."""

import argparse
from pathlib import Path

from kdcache import cache, data, distill, engine, runtime
from kdcache.cli.console import Progress, leave_warnings_to_main, say
from kdcache.cli.parser import add_config, add_options, describe_use, options_from
from kdcache.config import PrecomputeOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    describe_use(parser, PrecomputeOptions)
    add_config(parser)
    add_options(parser, PrecomputeOptions)


def run(arguments: argparse.Namespace) -> None:
    options = options_from(PrecomputeOptions, arguments)
    processes = runtime.distributed.init()
    leave_warnings_to_main(processes.is_main)
    device = runtime.pick_device(options.device, processes.local_rank)
    teacher = processes.main_process_first(lambda: engine.load_teacher(options, device))
    images = processes.main_process_first(lambda: data.load_selected_images(options))
    if device.type == "cpu":
        runtime.keep_freed_memory()
    with Progress("teacher", unit="view", hidden=not processes.is_main) as progress:
        report = engine.precompute(teacher, images, options, progress, processes)
    if processes.is_main:
        _summarize(options.cache, report, processes.world_size)
    runtime.distributed.destroy()


def _summarize(path: Path, report: "engine.PrecomputeReport", world_size: int) -> None:
    """What is in the cache now, how fast it came, and how good the teacher is for its classes."""
    opened = cache.open_cache(path)
    teacher = opened.manifest.teacher
    what = f"{teacher.classes} {teacher.output}"
    say(f"{path}: {report.rows:,} rows of {what}, {report.bytes / 1e6:.1f} MB")
    if report.already_complete:
        say("it was complete already; nothing was computed")
    else:
        where = f" in this of {world_size} processes" if world_size > 1 else ""
        speed = f"{report.rows_per_second:.1f} views/s"
        say(f"{report.computed:,} rows in {report.seconds:.1f} s: {speed}{where}")
    say(f"fingerprint {opened.fingerprint}")
    if len(opened.manifest.dataset.class_names) < 2:
        return  # images without labels, so there is nothing to fit a probe to
    quality = distill.load_or_fit_probe(opened).validation
    images = len(opened.splits["validation"])
    say(
        f"teacher, through a probe fitted on the training split: {quality['accuracy']:.1%} accuracy"
        f" on {images:,} validation images (NLL {quality['nll_calibrated']:.3f})"
    )
