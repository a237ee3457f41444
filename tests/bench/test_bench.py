"""The bench's machinery: ratios by hand from an injected clock, rows, JSON, faults. No test asserts a speed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import refused, run

from kdcache.bench import measurements as bench
from kdcache.bench import reference_loops as baseline
from kdcache.bench.profiling import kind_of, shares
from kdcache.bench.setup import QUICK, BenchOptions, Setup
from kdcache.bench.timing import (
    RATIO,
    Measurement,
    Target,
    failed,
    in_child,
    interleaved,
    rates,
    ratio_chart,
    ratios,
    remarks,
    table_rows,
)
from kdcache.cli import main as command_line
from kdcache.config import TrainOptions
from kdcache.engine.teacher import prepare_teacher
from kdcache.errors import KdcacheError
from kdcache.models.build import build_model
from kdcache.runtime.files import write_json
from kdcache.runtime.host_memory import peak_memory

CPU = torch.device("cpu")


class FakeClock:
    """Shows a time that only arms move."""

    def __init__(self) -> None:
        self.now, self.calls = 100.0, []

    def __call__(self) -> float:
        return self.now

    def arm(self, name: str, *durations: float) -> Callable[[], None]:
        left = list(durations)

        def work() -> None:
            self.calls.append(name)
            self.now += left.pop(0)

        return work


def test_arms_take_turns_and_the_first_round_is_not_timed() -> None:
    clock = FakeClock()
    arms = {"a": clock.arm("a", 50, 2, 3), "b": clock.arm("b", 70, 4, 12)}
    seconds = interleaved(arms, 2, clock=clock)
    assert seconds == {"a": (2, 3), "b": (4, 12)}
    assert "".join(clock.calls) == "baabba"
    assert ratios(seconds, "a", "b") == (0.5, 0.25)
    assert ratios(seconds, "b", "a", 0.5) == (1, 2)
    assert rates(seconds, "a", 12) == (6, 4)


def test_without_warm_up_every_call_is_timed() -> None:
    clock = FakeClock()
    assert interleaved({"a": clock.arm("a", 1, 2)}, 2, warm_up=False, clock=clock) == {"a": (1, 2)}


def test_an_arm_may_time_itself() -> None:
    clock = FakeClock()
    assert interleaved({"a": lambda: 7.5}, 3, clock=clock) == {"a": (7.5, 7.5, 7.5)}


def test_the_device_is_waited_for_on_both_sides() -> None:
    clock = FakeClock()
    pending = clock.arm(
        "wait", *[0, 5] * 2
    )  # what was launched before costs nothing here; what the arm launched costs 5
    assert interleaved({"a": clock.arm("a", 1, 1)}, 1, clock=clock, synchronize=pending) == {
        "a": (6,)
    }
    assert clock.calls == ["wait", "a", "wait"] * 2


@pytest.mark.parametrize(
    ("target", "text", "inside", "outside"),
    [
        (Target(low=0.97), "≥ 0.97", 0.97, 0.969),
        (Target(high=1.01), "≤ 1.01", 1.01, 1.011),
        (Target(0.19, 0.21), "0.19 to 0.21", 0.2, 0.22),
        (Target(low=3000), "≥ 3,000", 3000, 2999),
    ],
)
def test_a_target_is_a_range(target: Target, text: str, inside: float, outside: float) -> None:
    assert str(target) == text
    assert target.holds(inside) and not target.holds(outside)


MEASURED = (
    Measurement(
        "share",
        RATIO,
        (0.9, 0.98, 1.0),
        Target(low=0.97),
        "of what",
        seconds={"a": (1.0, 2.0, 3.0)},
    ),
    Measurement("time", RATIO, (0.3,), Target(0.1, 0.2), "of what"),
    Measurement("speed", "images/s", (1000.0, 3000.0)),
    failed("broken", "s", RuntimeError("out of memory\nand a long story")),
)


def test_rows_show_median_spread_and_whether_the_target_holds() -> None:
    keys = "what", "median", "min..max", "unit", "target", "holds"
    assert [tuple(row[key] for key in keys) for row in table_rows(MEASURED)] == [
        ("share", "0.98", "0.9..1", "x", "≥ 0.97", "yes"),
        ("time", "0.3", "0.3..0.3", "x", "0.1 to 0.2", "no"),
        ("speed", "2,000", "1,000..3,000", "images/s", None, None),
        ("broken", "failed", None, "s", None, None),
    ]
    assert remarks(MEASURED) == ["share; time: of what", "broken: failed: out of memory"]


def test_measurements_survive_json(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", [one.as_dict() for one in MEASURED])
    read = json.loads((tmp_path / "bench.json").read_text())
    assert tuple(map(Measurement.from_dict, read)) == MEASURED
    assert [entry["median"] for entry in read] == [0.98, 0.3, 2000, None]


def test_an_error_without_a_message_has_its_name() -> None:
    assert failed("x", "s", MemoryError()).fault == "MemoryError"


def test_the_chart_is_a_png_or_an_input_error(tmp_path: Path) -> None:
    ratio_chart(MEASURED, tmp_path / "bench.png")
    ratio_chart([], tmp_path / "empty.png")
    assert all(
        (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("bench.png", "empty.png")
    )
    with pytest.raises(KdcacheError, match="--picture"):
        ratio_chart(MEASURED, tmp_path)


def test_agreement_by_hand() -> None:
    exact = torch.tensor([[0.0, math.log(3)], [1.0, 0.0]])
    teacher = baseline.cheap_teacher(2, CPU)
    object.__setattr__(teacher.model.module, "forward", lambda inputs: inputs)
    other = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    same, divergence = baseline.agreement(teacher, [other], [exact])
    # the first row's softmax is (1/4, 3/4), its argmax 1; the other says (1/2, 1/2), argmax 0
    assert same == (0.5,)
    assert divergence == pytest.approx(((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2,))


def test_the_bare_student_learns_and_the_bare_teacher_does_not() -> None:
    student = build_model(
        "kdcache.small_resnets:half_resnet8", None, seed=0, classes=10, image_size=32
    )
    teacher = prepare_teacher(
        build_model("tiny_models:tiny_teacher", None, seed=0, image_size=32), CPU, "fp32"
    )
    before = [
        [value.clone() for value in model.module.parameters()] for model in (student, teacher.model)
    ]
    options = TrainOptions(alpha=0, precision="fp32", optimizer="adamw")
    baseline.bare_student(student, options, CPU, 4, classes=10)()
    baseline.bare_teacher(teacher, 4)()
    changed = [
        any((old != new).any() for old, new in zip(olds, model.module.parameters(), strict=True))
        for olds, model in zip(before, (student, teacher.model), strict=True)
    ]
    assert changed == [True, False]


def test_the_usual_script_shows_every_image_as_pil_resizes_it() -> None:
    images = baseline.shape_images(12).splits["train"]
    shown = baseline._PilImages(images, 48)
    image, label = shown[3]
    assert image.shape == (3, 48, 48) and label == images.labels[3]
    teacher, student = (
        build_model("tiny_models:tiny_cnn", None, seed=seed).module for seed in (0, 1)
    )
    before = [
        {key: value.clone() for key, value in one.state_dict().items()}
        for one in (teacher, student)
    ]
    baseline.ReferenceLoop(teacher, student, images, 32, batch=5, device=CPU, workers=0).epoch()
    same = [
        all(torch.equal(old[key], value) for key, value in one.state_dict().items())
        for old, one in zip(before, (teacher, student), strict=True)
    ]
    assert same == [True, False]
    assert student.state_dict()["1.num_batches_tracked"] == 3


def test_made_up_images_are_the_same_each_time() -> None:
    for make in (baseline.shape_images, baseline.noise_images):
        first, second = make(60), make(60)
        assert [part.digest() for part in first.splits.values()] == [
            part.digest() for part in second.splits.values()
        ]
        assert all(set(part.labels.tolist()) == set(range(10)) for part in first.splits.values())


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"a child process failed: .*no_such"):
        in_child("no_such_function")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(64 << 18)  # 64 MiB
    assert before > 0 and peak_memory() >= before
    assert held.sum() == 64 << 18


def test_defaults_depend_on_the_device(tmp_path: Path) -> None:
    setup = Setup(BenchOptions(device="cpu"), tmp_path)
    assert (setup.options.images, setup.options.matrix_size, setup.student_batch) == (
        128,
        2048,
        128,
    )
    assert setup.near_bare == Target(low=0.97)
    assert setup.environment().keys() >= {"device", "threads", "torch"}


def test_a_failing_measurement_leaves_its_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: Setup) -> list[Measurement]:
        raise torch.OutOfMemoryError("no room for this")

    monkeypatch.setattr(
        bench, "MEASUREMENTS", {"broken": broken, "sound": lambda setup: [MEASURED[0]]}
    )
    assert (
        run(
            command_line.main,
            "bench",
            "--quick",
            "--device",
            "cpu",
            "--json",
            tmp_path / "bench.json",
        )
        == 1
    )
    out = capsys.readouterr().out
    assert "broken: failed: no room for this" in out and "0.9..1" in out
    kept = json.loads((tmp_path / "bench.json").read_text())["measurements"]
    assert [Measurement.from_dict(entry).fault for entry in kept] == ["no room for this", None]


def test_what_is_given_wins_over_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "MEASUREMENTS", {"sound": lambda setup: [MEASURED[0]]})
    file = tmp_path / "bench.json"
    run(command_line.main, "bench", "--quick", "--images", 70, "--device", "cpu", "--json", file)
    options = json.loads(file.read_text())["options"]
    assert (options["images"], options["batch_size"]) == (70, QUICK["batch_size"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "matrices,nonsense"], "found nonsense; correct the names"),
        (["--only", ""], "found nothing"),
        (["--images", 3], "--images to be at least 50"),
        (["--rounds", 0], "--rounds to be at least 1"),
        (["--device", "abacus"], "--device abacus"),
        (["--json", "no/such/folder/bench.json"], "a folder for no/such/folder/bench.json"),
        (["--picture", "no/such/folder/bench.png"], "a folder for no/such/folder/bench.png"),
        (["--rounds", "many"], "invalid int value"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(command_line.main, capsys, "bench", *arguments)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("aten::native_batch_norm", "normalisation"),
        ("aten::_softmax", "attention"),
        ("aten::_native_multi_head_attention", "attention"),
        ("aten::_fused_sgd_", "optimizer"),
        ("aten::copy_", "copies"),
        ("aten::gelu", "elementwise"),
        ("aten::addcmul", "elementwise"),
        ("aten::randperm", "everything else"),
        ("cudaLaunchKernel", "everything else"),
    ],
)
def test_operations_are_told_apart_by_their_names(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_shares_sum_to_one_and_see_what_was_done() -> None:
    left = torch.randn(400, 400)
    found = shares(lambda: [left @ left for _ in range(20)], CPU)
    assert (
        sum(found.values()) == pytest.approx(1)
        and max(found, key=found.__getitem__) == "matrix products"
    )


def test_quick_gives_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    assert run(
        command_line.main, "bench", "--quick", "--device", "cpu", "--rounds", 1, "--workers", 0,
        "--json", file, "--picture", picture,
    ) == 0, capsys.readouterr().out  # fmt: skip
    results = json.loads(file.read_text())
    found = [Measurement.from_dict(entry) for entry in results["measurements"]]
    profiled = [one for one in found if ", time in " in one.name]
    assert len(found) - len(profiled) == 25 and len({one.name for one in found}) == len(found)
    for phase in ("phase one", "training"):
        assert sum(one.median for one in profiled if one.name.startswith(phase)) == pytest.approx(
            1, abs=0.03
        )
    assert all(len(one.values) >= 1 and all(map(math.isfinite, one.values)) for one in found)
    assert all(
        value > 0
        for one in found
        for value in one.values
        if one.unit in (RATIO, "s", "images/s", "GFLOP/s")
    )
    out = capsys.readouterr().out
    assert all(one.name in out for one in found) and results["environment"]["torch"] in out
    assert picture.read_bytes().startswith(b"\x89PNG")
