"""How fast the two phases run on the machine at hand, beside bare loops and the usual script: `python -m kdcache bench`.

Each measurement is a function from the Setup to its rows; docs/performance.md says what each number means.
"""

import dataclasses
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdcache import baseline
from kdcache.arithmetic import forward_flops
from kdcache.bench_setup import BenchOptions, Setup
from kdcache.cache import open_cache
from kdcache.errors import InputError
from kdcache.measurement import RATIO, Measurement, Target, failed, in_child, rates, ratios
from kdcache.models import head_parameters
from kdcache.profiling import shares
from kdcache.targets import load_or_fit_probe
from kdcache.teacher import prepare_teacher


def matrices(setup: Setup) -> list[Measurement]:
    """How fast the device multiplies large matrices, and how near to that the teacher comes in its own precision."""
    teacher, batch = setup.teacher, setup.teacher_batch
    products = {each: setup.product(each) for each in dict.fromkeys(["fp32", *setup.half, teacher.precision])}
    runs = {name: product.run for name, product in products.items()}
    seconds = setup.time(**runs, teacher=baseline.bare_teacher(teacher, batch))
    found = [
        Measurement(f"matrix product, {name}", "GFLOP/s", rates(seconds, name, product.operations / 1e9), note=product.size)
        for name, product in products.items()
    ]
    per_image = forward_flops(teacher.model.module, setup.options.image_size)
    note = f"{setup.teacher_in_words()}, {per_image / 1e9:.3g} GFLOP an image"
    share = ratios(seconds, teacher.precision, "teacher", per_image * batch / products[teacher.precision].operations)
    return [
        *found,
        Measurement("teacher alone, share of the matrix rate", RATIO, share, None, note, seconds=seconds),
        Measurement("teacher alone", "images/s", rates(seconds, "teacher", batch), None, note, seconds=seconds),
    ]


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
    share, images_per_second = ratios(seconds, "bare", "pipeline"), rates(seconds, "pipeline", sum(counts))
    of_matrices = ratios(seconds, "product", "pipeline", operations / product.operations)
    return [
        Measurement("phase one, share of the bare teacher", RATIO, share, setup.near_bare, note, seconds=seconds),
        Measurement(f"phase one, share of the {half} matrix rate", RATIO, of_matrices, Target(low=0.6), note, seconds=seconds),
        Measurement("phase one", "images/s", images_per_second, None, note, seconds=seconds),
    ]


def distillation(setup: Setup) -> list[Measurement]:
    """What a step costs more because it distils."""
    _, distilled = setup.epochs(alpha=0.9)
    _, labels = setup.epochs(alpha=0.0)
    seconds = setup.time(distilled=distilled, labels=labels)
    values, name = ratios(seconds, "distilled", "labels"), "step, distilling over labels only"
    return [Measurement(name, RATIO, values, Target(high=1.01), "time, alpha 0.9 over alpha 0", seconds=seconds)]


def student(setup: Setup) -> list[Measurement]:
    """What phase two loses around its student, and the student's speed."""
    trainer, epoch = setup.epochs(alpha=0.9)
    images, steps = setup.options.images, trainer.steps_per_epoch
    batch = images // steps
    step = baseline.bare_student(setup.fresh_student(), trainer.options, setup.device, batch, classes=trainer.classes)

    def bare() -> None:
        for _ in range(steps):
            step()

    seconds = setup.time(epoch=epoch, bare=bare)
    note = f"{setup.options.student}, {setup.options.image_size} px, batches of {batch}, {trainer.options.precision}"
    share = ratios(seconds, "bare", "epoch", images / (steps * batch))
    fast = Target(low=3000) if setup.gpu else None
    return [
        Measurement("training, share of the bare loop", RATIO, share, setup.near_bare, note, seconds=seconds),
        Measurement("training", "images/s", rates(seconds, "epoch", images), fast, note, seconds=seconds),
    ]


def usual_script(setup: Setup) -> list[Measurement]:
    """An epoch from the cache beside one of a script that runs the teacher in every step."""
    options = setup.options
    _, cached = setup.epochs(alpha=0.9)
    script = baseline.UsualScript(
        setup.fresh_teacher().module, setup.fresh_student().module, setup.images.splits["train"], options.image_size,
        batch=setup.student_batch, device=setup.device, workers=options.workers,
    )  # fmt: skip
    seconds = setup.time(cached=cached, usual=script.epoch)
    target, note = Target(high=1 / 6 if setup.gpu else 1 / 3), f"time; PIL, {options.workers} DataLoader workers, float32"
    values = ratios(seconds, "cached", "usual")
    return [Measurement("epoch, cached over usual script", RATIO, values, target, note, seconds=seconds)]


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
    return [Measurement("epoch, cached over --live-teacher", RATIO, values, target, note, seconds=seconds)]


def start(setup: Setup) -> list[Measurement]:
    """How long until a student learns: in a fresh process, and after another one in the same process."""
    options, cache, device = setup.options, setup.folder / "start.h5", str(setup.device)
    in_child("fill_cheap_cache", cache, options.rows, options.classes, device)
    load_or_fit_probe(open_cache(cache))
    found = [in_child("first_steps", cache, "kdcache.small_resnets:half_resnet8", device) for _ in range(options.rounds)]
    imports = tuple(one["imported"] - one["spawned"] for one in found)
    first = tuple(one["first"] - one["imported"] - one["drawing"] for one in found)
    second = tuple(one["second"] - one["first"] for one in found)
    note = f"{options.rows} x {options.classes} logits, probe fitted before, images in memory"
    return [
        Measurement("process start to the end of its imports", "s", imports),
        Measurement("imports to first step", "s", first, Target(high=5 if setup.gpu else 3), note),
        Measurement("one student to the next one's first step", "s", second, Target(high=0.5), note),
    ]


def rows(setup: Setup) -> list[Measurement]:
    """Whether phase one's time and memory grow with its rows and no faster."""
    full, path = setup.options.rows, setup.folder / "rows.h5"
    peaks: dict[str, list[float]] = {}

    def filling(name: str, count: int) -> Callable[[], float]:
        def fill() -> float:
            done = in_child("fill_cheap_cache", path, count, setup.options.classes, str(setup.device))
            peaks.setdefault(name, []).append(done["peak"])
            return done["seconds"]

        return fill

    counts = {"once": full // 4, "twice": full // 2, "fourfold": full}
    seconds = setup.time(warm_up=False, **{name: filling(name, count) for name, count in counts.items()})
    growth = [
        tuple((more - less) / (counts[name] - counts["once"]) for more, less in zip(peaks[name], peaks["once"], strict=True))
        for name in ("twice", "fourfold")
    ]
    note = f"{counts['once']} rows, a teacher that costs nothing"
    found = []
    for (name, times), bytes_per_row in zip({"twice": 2, "fourfold": 4}.items(), growth, strict=True):
        values = ratios(seconds, name, "once", counts["once"] / counts[name])
        found += [
            Measurement(f"time a row, {times}x over 1x the rows", RATIO, values, None, note, seconds=seconds),
            Measurement(f"memory a further row, 1x to {times}x", "bytes", bytes_per_row, None, "peak; its images are 3,686"),
        ]
    return found


def precisions(setup: Setup) -> list[Measurement]:
    """What the teacher says in half precision, beside what it says in fp32 of the same images; one value a batch."""
    model, options = setup.fresh_teacher(), setup.options
    weight, _ = head_parameters(model.module)
    if not weight.any():  # torchvision's transformers begin with a head of zeros, and all precisions agree on that
        nn.init.normal_(weight, std=0.02)
    teacher = prepare_teacher(model, setup.device, "fp32")
    train, found = setup.images.splits["train"], []
    batch = min(64, setup.teacher_batch)
    render = teacher.renderer(setup.images.image_shape)
    whole = torch.tensor([[0, 0, *setup.images.image_shape, 0]], device=setup.device)
    inputs = [
        render(images.to(setup.device), whole.expand(len(images), -1)) for images in train.images.split(batch)[: options.rounds]
    ]
    exact = [teacher.logits(one) for one in inputs]
    for precision in ("fp16", "bf16"):
        names = (f"{precision} teacher, top-1 as in fp32", "share"), (f"{precision} teacher, KL from fp32", "nats")
        note = f"{sum(map(len, inputs))} images, weights {options.teacher_weights}"
        try:
            values = baseline.agreement(dataclasses.replace(teacher, precision=precision), inputs, exact)
        except RuntimeError as error:  # not every device multiplies in every precision
            found += [failed(*name, error) for name in names]
            continue
        found += [Measurement(*name, some, None, note) for name, some in zip(names, values, strict=True)]
    return found


def profile(setup: Setup) -> list[Measurement]:
    """Where the time of both phases goes, by kind of operation; a kind below half a percent everywhere is left out."""
    _, epoch = setup.epochs(alpha=0.9)
    phases = {
        "phase one": (lambda: setup.fill(setup.folder / "profiled.h5"), setup.teacher_in_words()),
        "training": (epoch, f"{setup.options.student}, batches of {setup.student_batch}"),
    }
    found = []
    for phase, (work, note) in phases.items():
        work()
        rounds = [shares(work, setup.device) for _ in range(min(3, setup.options.rounds))]
        for kind in rounds[0]:
            values = tuple(one[kind] for one in rounds)
            if max(values) >= 0.005:
                found.append(Measurement(f"{phase}, time in {kind}", "share", values, None, note))
    return found


MEASUREMENTS: dict[str, Callable[[Setup], list[Measurement]]] = {
    "matrices": matrices,
    "phase-one": phase_one,
    "distillation": distillation,
    "student": student,
    "usual-script": usual_script,
    "live-teacher": live_teacher,
    "start": start,
    "rows": rows,
    "precisions": precisions,
    "profile": profile,
}


def chosen(options: BenchOptions) -> list[str]:
    """The names of the measurements that are asked for, in the order in which they are made.

    Raises InputError where there is no such measurement.
    """
    names = list(MEASUREMENTS) if options.only is None else options.only.split(",")
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        raise InputError(f"--only some of {', '.join(MEASUREMENTS)}", ", ".join(unknown) or "nothing", "correct the names")
    return [name for name in MEASUREMENTS if name in names]


def run(
    options: BenchOptions, progress: Callable[[int, int], None], keep: Callable[[dict[str, Any]], None]
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
            except Exception as error:  # whatever it is, out of memory or a bug, the others are worth having
                found.append(failed(name, "", error))
            keep(facts | {"measurements": [one.as_dict() for one in found]})
            gc.collect()
            if setup.device.type == "cuda":
                torch.cuda.empty_cache()
        progress(len(names), len(names))
    return facts["environment"], found
