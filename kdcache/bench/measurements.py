"""The measurements, each a function from the Setup to its numbers."""

import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdcache.bench import reference_loops as loops
from kdcache.bench.child import in_child
from kdcache.bench.options import BenchOptions, chosen
from kdcache.bench.setup import Setup
from kdcache.bench.timing import RATIO, Measurement, Target
from kdcache.cache import open_cache
from kdcache.distill import load_or_fit_probe
from kdcache.runtime import forward_flops, give_back_freed_memory, keep_freed_memory

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def phase_one(setup: Setup) -> list[Measurement]:
    """What phase one loses around the teacher, and how near it comes to the device's limit."""
    teacher, batch, pixels = setup.teacher, setup.teacher_batch, setup.options.image_size
    counts = [len(split) for split in setup.images.splits.values()]
    batches = [min(batch, count - start) for count in counts for start in range(0, count, batch)]
    side, dtype = 16_384 if setup.gpu else 2048, _DTYPES[teacher.precision]
    left, right = torch.randn(2, side, side, device=setup.device).to(dtype)
    product = partial(torch.mm, left, right, out=torch.empty_like(left))
    pipeline, bare = partial(setup.fill, "again.h5"), loops.bare_teacher(teacher, batches)
    note = f"{setup.options.teacher}, {pixels} px, batches of {batch}, {sum(counts)} images"
    timings = setup.time(note, pipeline=pipeline, bare=bare, product=product)
    rate, near = f"{teacher.precision} matrix rate", Target(0.95 if setup.gpu else 0.97)
    factor = forward_flops(teacher.model.module, pixels) * sum(counts) / (2 * side**3)
    name = f"phase one, fraction of the {rate}"
    return [
        timings.ratio("phase one, speed over the bare teacher", "bare", "pipeline", near),
        timings.ratio(name, "product", "pipeline", Target(0.6), factor),
        timings.rate("phase one", "images/s", "pipeline", sum(counts)),
        timings.rate(rate, "GFLOP/s", "product", 2e-9 * side**3),
    ]


def training(setup: Setup) -> list[Measurement]:
    """An epoch from the cache beside labels only, bare steps, and a teacher in every step."""
    trainer, cached = setup.student(alpha=0.9)
    _, labels = setup.student(alpha=0.0)
    _, live = setup.student(alpha=0.9, live_teacher=True)
    options, device, split = setup.options, setup.device, setup.images.splits["train"]
    precision, steps = trainer.config.precision, trainer.steps_per_epoch
    batch, pixels = len(split) // steps, options.image_size
    bare_model, model = setup.new_model(options.student), setup.new_model(options.student)
    bare = loops.bare_student(bare_model, precision, device, batch, steps, options.compile)
    teacher, images = setup.new_model(options.teacher, None), loops.PilImages(split, pixels)
    reference = loops.reference_loop(teacher, model, images, device, batch, options.workers)
    note = f"{options.student}, {pixels} px, batches of {batch}, {precision}; reference loop: fp32"
    timings = setup.time(
        note, bare=bare, cached=cached, labels=labels, live=live, reference=reference
    )
    near, less = Target(0.95 if setup.gpu else 0.97), Target(high=1 / 6 if setup.gpu else 1 / 3)
    step = 3 * forward_flops(model.module, pixels)  # backwards costs about two forwards
    expected = step / (step + forward_flops(teacher.module, pixels))
    by_flops = Target(0.95 * expected, 1.05 * expected)
    factor, fast = len(split) / (steps * batch), Target(3000) if setup.gpu else None
    return [
        timings.ratio("training, speed over the bare loop", "bare", "cached", near, factor),
        timings.ratio("epoch, distilling over labels only", "cached", "labels", Target(high=1.01)),
        timings.ratio("epoch, cached over --live-teacher", "cached", "live", by_flops),
        timings.ratio("epoch, cached over reference loop", "cached", "reference", less),
        timings.rate("training", "images/s", "cached", len(split), fast),
    ]


def start(setup: Setup) -> list[Measurement]:
    """How long until a student learns: in a fresh process, and after another one."""
    cache, rows, device = setup.folder / "start.h5", setup.options.rows, str(setup.device)
    in_child("fill_cheap_cache", cache, rows, device)
    load_or_fit_probe(open_cache(cache))
    found = [in_child("first_steps", cache, device) for _ in setup.rounds()]
    imports = tuple(one["imported"] - one["spawned"] for one in found)
    first = tuple(one["first"] - one["imported"] - one["drawing"] for one in found)
    second = tuple(one["second"] - one["first"] for one in found)
    note = f"{rows} x 1000 logits, probe fitted before, images in memory"
    note += setup.left_out(len(found))
    soon, at_once = Target(high=5 if setup.gpu else 3), Target(high=0.5)
    return [
        Measurement("process start to the end of its imports", "s", imports),
        Measurement("imports to first step", "s", first, soon, note),
        Measurement("one student to the next one's first step", "s", second, at_once, note),
    ]


def rows(setup: Setup) -> list[Measurement]:
    """Whether phase one's time and memory grow with its rows and no faster."""
    few, many = setup.options.rows // 4, setup.options.rows
    times, growth = [], []
    for _ in setup.rounds():
        path, device = setup.folder / "rows.h5", str(setup.device)
        less = in_child("fill_cheap_cache", path, few, device)
        more = in_child("fill_cheap_cache", path, many, device)
        times.append(more["seconds"] / less["seconds"] * few / many)
        growth.append((more["peak"] - less["peak"]) / (many - few))
    note = f"{few} rows and {many}, a tiny teacher; a row's images are 3,686 bytes"
    note += setup.left_out(len(times))
    return [
        Measurement("time a row, 4x over 1x the rows", RATIO, tuple(times), note=note),
        Measurement("memory a further row, 1x to 4x", "bytes", tuple(growth), note=note),
    ]


def run(
    options: BenchOptions,
    progress: Callable[[int, int], None],
    tell: Callable[[dict[str, Any], list[Measurement]], None],
) -> list[Measurement]:
    """Make the measurements that are asked for; one that fails leaves its reason in its row.

    `progress` is called with (finished, in all), `tell` after each with the environment and the
    options, JSON-ready, and with all measurements so far. Raises OptionError where the precision
    is one that the processor emulates.
    """
    found: list[Measurement] = []
    names = chosen(options)
    keep_freed_memory()  # as the command lines of both phases do; all sides share it
    with tempfile.TemporaryDirectory(prefix="kdcache-bench-") as folder:
        setup = Setup(options, Path(folder))
        facts = {"environment": setup.environment(), "options": setup.options.as_dict()}
        tell(facts, found)
        for number, name in enumerate(names):
            progress(number, len(names))
            try:
                found += globals()[name.replace("-", "_")](setup)
            except Exception as error:  # out of memory or a bug: the others are worth having
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                found.append(Measurement(name, "", fault=reason))
            tell(facts, found)
            gc.collect()
            give_back_freed_memory()
            torch.cuda.empty_cache()  # does nothing where torch has no GPU
        progress(len(names), len(names))
    return found
