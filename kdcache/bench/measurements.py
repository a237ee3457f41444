"""How fast the two phases run on the machine at hand, beside bare loops and the usual script: `python -m kdcache bench`.

Each measurement is a function from the Setup to its rows; docs/performance.md says what each number means.
"""

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdcache.bench import reference_loops as baseline
from kdcache.bench.model_measurements import matrices, precisions, profile
from kdcache.bench.setup import BenchOptions, Setup
from kdcache.bench.timing import RATIO, Measurement, Target, failed, in_child, rates, ratios
from kdcache.cache import open_cache
from kdcache.distill import load_or_fit_probe
from kdcache.errors import KdcacheError
from kdcache.runtime import forward_flops, give_back_freed_memory


def phase_one(setup: Setup) -> list[Measurement]:
    """What phase one loses around the teacher, in gathering, rendering and writing, and how near the device's limit it is."""
    counts, batch = [len(part) for part in setup.images.splits.values()], setup.teacher_batch
    batches = [min(batch, count - start) for count in counts for start in range(0, count, batch)]
    half = setup.teacher.precision if setup.teacher.precision in setup.half else setup.half[0]
    product = setup.product(half)
    seconds = setup.time(
        pipeline=lambda: setup.fill(setup.folder / "again.h5"),
        bare=baseline.bare_teacher(setup.teacher, *batches),
        product=product.run,
    )
    note = f"{setup.teacher_in_words()}, {sum(counts)} images"
    operations = forward_flops(setup.teacher.model.module, setup.options.image_size) * sum(counts)
    share, images_per_second = (
        ratios(seconds, "bare", "pipeline"),
        rates(seconds, "pipeline", sum(counts)),
    )
    of_matrices = ratios(seconds, "product", "pipeline", operations / product.operations)
    return [
        Measurement(
            "phase one, share of the bare teacher",
            RATIO,
            share,
            setup.near_bare,
            note,
            seconds=seconds,
        ),
        Measurement(
            f"phase one, share of the {half} matrix rate",
            RATIO,
            of_matrices,
            Target(low=0.6),
            note,
            seconds=seconds,
        ),
        Measurement("phase one", "images/s", images_per_second, None, note, seconds=seconds),
    ]


def distillation(setup: Setup) -> list[Measurement]:
    """What a step costs more because it distils."""
    _, distilled = setup.epochs(alpha=0.9)
    _, labels = setup.epochs(alpha=0.0)
    seconds = setup.time(distilled=distilled, labels=labels)
    values, name = ratios(seconds, "distilled", "labels"), "step, distilling over labels only"
    return [
        Measurement(
            name, RATIO, values, Target(high=1.01), "time, alpha 0.9 over alpha 0", seconds=seconds
        )
    ]


def student(setup: Setup) -> list[Measurement]:
    """What phase two loses around its student, and the student's speed."""
    trainer, epoch = setup.epochs(alpha=0.9)
    images, steps = setup.options.images, trainer.steps_per_epoch
    batch = images // steps
    step = baseline.bare_student(
        setup.fresh_student(), trainer.options, setup.device, batch, classes=trainer.classes
    )

    def bare() -> None:
        for _ in range(steps):
            step()

    seconds = setup.time(epoch=epoch, bare=bare)
    note = f"{setup.options.student}, {setup.options.image_size} px, batches of {batch}, {trainer.options.precision}"
    share = ratios(seconds, "bare", "epoch", images / (steps * batch))
    fast = Target(low=3000) if setup.gpu else None
    return [
        Measurement(
            "training, share of the bare loop", RATIO, share, setup.near_bare, note, seconds=seconds
        ),
        Measurement(
            "training", "images/s", rates(seconds, "epoch", images), fast, note, seconds=seconds
        ),
    ]


def reference_loop(setup: Setup) -> list[Measurement]:
    """An epoch from the cache beside one of a script that runs the teacher in every step."""
    options = setup.options
    _, cached = setup.epochs(alpha=0.9)
    script = baseline.ReferenceLoop(
        setup.fresh_teacher().module, setup.fresh_student().module, setup.images.splits["train"], options.image_size,
        batch=setup.student_batch, device=setup.device, workers=options.workers,
    )  # fmt: skip
    seconds = setup.time(cached=cached, usual=script.epoch)
    target, note = (
        Target(high=1 / 6 if setup.gpu else 1 / 3),
        f"time; PIL, {options.workers} DataLoader workers, float32",
    )
    values = ratios(seconds, "cached", "usual")
    return [
        Measurement("epoch, cached over usual script", RATIO, values, target, note, seconds=seconds)
    ]


def live_teacher(setup: Setup) -> list[Measurement]:
    """An epoch from the cache beside one with our own teacher in the loop, and what their operations would make of it."""
    _, cached = setup.epochs(alpha=0.9)
    trainer, live = setup.epochs(alpha=0.9, live_teacher=True)
    seconds = setup.time(cached=cached, live=live)
    size = setup.options.image_size
    training = 3 * forward_flops(trainer.module, size)  # backwards costs about two forwards
    expected = training / (training + forward_flops(setup.teacher.model.module, size))
    note, target = f"time; by their FLOPs {expected:.3f}", Target(0.95 * expected, 1.05 * expected)
    values = ratios(seconds, "cached", "live")
    return [
        Measurement(
            "epoch, cached over --live-teacher", RATIO, values, target, note, seconds=seconds
        )
    ]


def start(setup: Setup) -> list[Measurement]:
    """How long until a student learns: in a fresh process, and after another one in the same process."""
    options, cache, device = setup.options, setup.folder / "start.h5", str(setup.device)
    in_child("fill_cheap_cache", cache, options.rows, options.classes, device)
    load_or_fit_probe(open_cache(cache))
    found = [
        in_child("first_steps", cache, "kdcache.small_resnets:half_resnet8", device)
        for _ in range(options.rounds)
    ]
    imports = tuple(one["imported"] - one["spawned"] for one in found)
    first = tuple(one["first"] - one["imported"] - one["drawing"] for one in found)
    second = tuple(one["second"] - one["first"] for one in found)
    note = f"{options.rows} x {options.classes} logits, probe fitted before, images in memory"
    return [
        Measurement("process start to the end of its imports", "s", imports),
        Measurement("imports to first step", "s", first, Target(high=5 if setup.gpu else 3), note),
        Measurement(
            "one student to the next one's first step", "s", second, Target(high=0.5), note
        ),
    ]


def rows(setup: Setup) -> list[Measurement]:
    """Whether phase one's time and memory grow with its rows and no faster."""
    full, path = setup.options.rows, setup.folder / "rows.h5"
    peaks: dict[str, list[float]] = {}

    def filling(name: str, count: int) -> Callable[[], float]:
        def fill() -> float:
            done = in_child(
                "fill_cheap_cache", path, count, setup.options.classes, str(setup.device)
            )
            peaks.setdefault(name, []).append(done["peak"])
            return done["seconds"]

        return fill

    counts = {"once": full // 4, "twice": full // 2, "fourfold": full}
    seconds = setup.time(
        warm_up=False, **{name: filling(name, count) for name, count in counts.items()}
    )
    growth = [
        tuple(
            (more - less) / (counts[name] - counts["once"])
            for more, less in zip(peaks[name], peaks["once"], strict=True)
        )
        for name in ("twice", "fourfold")
    ]
    note = f"{counts['once']} rows, a teacher that costs nothing"
    found = []
    for (name, times), bytes_per_row in zip(
        {"twice": 2, "fourfold": 4}.items(), growth, strict=True
    ):
        values = ratios(seconds, name, "once", counts["once"] / counts[name])
        found += [
            Measurement(
                f"time a row, {times}x over 1x the rows", RATIO, values, None, note, seconds=seconds
            ),
            Measurement(
                f"memory a further row, 1x to {times}x",
                "bytes",
                bytes_per_row,
                None,
                "peak; its images are 3,686",
            ),
        ]
    return found


MEASUREMENTS: dict[str, Callable[[Setup], list[Measurement]]] = {
    "matrices": matrices,
    "phase-one": phase_one,
    "distillation": distillation,
    "student": student,
    "reference-loop": reference_loop,
    "live-teacher": live_teacher,
    "start": start,
    "rows": rows,
    "precisions": precisions,
    "profile": profile,
}


def chosen(options: BenchOptions) -> list[str]:
    """The names of the measurements that are asked for, in the order in which they are made.

    Raises KdcacheError where there is no such measurement.
    """
    names = list(MEASUREMENTS) if options.only is None else options.only.split(",")
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise KdcacheError(
            f"--only some of {', '.join(MEASUREMENTS)}",
            ", ".join(unknown) or "nothing",
            "correct the names",
        )
    return [name for name in MEASUREMENTS if name in names]


def run(
    options: BenchOptions,
    progress: Callable[[int, int], None],
    keep: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, str | int], list[Measurement]]:
    """Make the measurements that are asked for, one after the other; one that fails leaves its reason in its row.

    Args:
        progress: called with (measurements finished, measurements in all).
        keep: called after each with environment, options and measurements so far, JSON-ready: a killed run leaves those.

    Returns the environment, and the measurements.
    """
    found: list[Measurement] = []
    names = chosen(options)
    with tempfile.TemporaryDirectory(prefix="kdcache-bench-") as folder:
        setup = Setup(options, Path(folder))
        facts = {"environment": setup.environment(), "options": setup.options.as_dict()}
        for number, name in enumerate(names):
            progress(number, len(names))
            try:
                found += MEASUREMENTS[name](setup)
            except (
                Exception
            ) as error:  # whatever it is, out of memory or a bug, the others are worth having
                found.append(failed(name, "", error))
            keep(facts | {"measurements": [one.as_dict() for one in found]})
            gc.collect()
            give_back_freed_memory()
            if setup.device.type == "cuda":
                torch.cuda.empty_cache()
        progress(len(names), len(names))
    return facts["environment"], found
