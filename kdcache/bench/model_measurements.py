"""The bench's measurements of the models: how near they come to the device's limit, in which precision, where time goes."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from kdcache.bench import reference_loops as baseline
from kdcache.bench.profiling import shares
from kdcache.bench.setup import Setup
from kdcache.bench.timing import RATIO, Measurement, failed, rates, ratios
from kdcache.engine import prepare_teacher
from kdcache.models import Model, head_parameters
from kdcache.runtime import forward_flops


def matrices(setup: Setup) -> list[Measurement]:
    """How fast the device multiplies large matrices, and how near to that the teacher comes in its own precision."""
    teacher, batch = setup.teacher, setup.teacher_batch
    products = {
        each: setup.product(each)
        for each in dict.fromkeys(["fp32", *setup.half, teacher.precision])
    }
    runs = {name: product.run for name, product in products.items()}
    seconds = setup.time(**runs, teacher=baseline.bare_teacher(teacher, batch))
    found = [
        Measurement(
            f"matrix product, {name}",
            "GFLOP/s",
            rates(seconds, name, product.operations / 1e9),
            note=product.size,
        )
        for name, product in products.items()
    ]
    per_image = forward_flops(teacher.model.module, setup.options.image_size)
    note = f"{setup.teacher_in_words()}, {per_image / 1e9:.3g} GFLOP an image"
    share = ratios(
        seconds,
        teacher.precision,
        "teacher",
        per_image * batch / products[teacher.precision].operations,
    )
    return [
        *found,
        Measurement(
            "teacher alone, share of the matrix rate", RATIO, share, None, note, seconds=seconds
        ),
        Measurement(
            "teacher alone",
            "images/s",
            rates(seconds, "teacher", batch),
            None,
            note,
            seconds=seconds,
        ),
    ]


def precisions(setup: Setup) -> list[Measurement]:
    """What half precision costs in accuracy, and what it brings."""
    return _half_answers(setup) + _half_speeds(setup)


def _half_answers(setup: Setup) -> list[Measurement]:
    """What the teacher says in half precision, beside what it says in fp32 of the same images; one value a batch."""
    model, options = setup.fresh_teacher(), setup.options
    weight, _ = head_parameters(model.module)
    if (
        not weight.any()
    ):  # torchvision's transformers begin with a head of zeros, and all precisions agree on that
        nn.init.normal_(weight, std=0.02)
    teacher = prepare_teacher(model, setup.device, "fp32")
    train, found = setup.images.splits["train"], []
    batch = min(16, setup.teacher_batch)
    render = teacher.renderer(setup.images.image_shape)
    whole = torch.tensor([[0, 0, *setup.images.image_shape, 0]], device=setup.device)
    inputs = [
        render(images.to(setup.device), whole.expand(len(images), -1))
        for images in train.images.split(batch)[: options.rounds]
    ]
    exact = [teacher.logits(one) for one in inputs]
    for precision in ("fp16", "bf16"):
        names = (
            (f"{precision} teacher, top-1 as in fp32", "share"),
            (f"{precision} teacher, KL from fp32", "nats"),
        )
        note = f"{sum(map(len, inputs))} images, weights {options.teacher_weights}"
        try:
            values = baseline.agreement(
                dataclasses.replace(teacher, precision=precision), inputs, exact
            )
        except RuntimeError as error:  # not every device multiplies in every precision
            found += [failed(*name, error) for name in names]
            continue
        found += [
            Measurement(*name, some, None, note) for name, some in zip(names, values, strict=True)
        ]
    return found


def _half_speeds(setup: Setup) -> list[Measurement]:
    """How many times as fast as in fp32 both models run, alone, in the precisions that this kind of device may have."""
    own, options, batch = (
        setup.options,
        setup.train_options(),
        min(setup.student_batch, setup.teacher_batch),
    )

    def answering(model: Model, precision: str) -> Callable[[], None]:
        return baseline.bare_teacher(prepare_teacher(model, setup.device, precision), batch)

    def learning(model: Model, precision: str) -> Callable[[], None]:
        classes = len(setup.images.class_names)
        return baseline.bare_student(
            model, options.replace(precision=precision), setup.device, batch, classes=classes
        )

    found = []
    for what, name, fresh, loop in (
        ("teacher", own.teacher, setup.fresh_teacher, answering),
        ("student", own.student, setup.fresh_student, learning),
    ):
        operations = forward_flops(fresh().module, own.image_size)
        note = f"{name}, {operations / 1e9:.3g} GFLOP an image, {own.image_size} px, batches of {batch}"
        for precision in setup.half:
            seconds = setup.time(**{each: loop(fresh(), each) for each in ("fp32", precision)})
            values = ratios(seconds, "fp32", precision)
            found.append(
                Measurement(
                    f"{precision} {what}, speed over fp32",
                    RATIO,
                    values,
                    None,
                    note,
                    seconds=seconds,
                )
            )
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
