"""The bench: ratios by hand from an injected clock, rows, JSON, faults. No test asserts a speed."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import refused, run

from kdcache.bench import QUICK, BenchOptions, measurements, ratio_chart, remarks, table_rows
from kdcache.bench import reference_loops as loops
from kdcache.bench.child import in_child
from kdcache.bench.options import MEASUREMENTS
from kdcache.bench.setup import Setup, noise_images
from kdcache.bench.timing import RATIO, Measurement, Target, Timings, interleaved
from kdcache.cli.main import main
from kdcache.engine import prepare_teacher
from kdcache.errors import KdcacheError
from kdcache.models import build_model
from kdcache.runtime import peak_memory, write_json

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


def test_arms_are_interleaved_and_the_first_round_is_not_timed() -> None:
    clock = FakeClock()
    arms = {"a": clock.arm("a", 50, 2, 3), "b": clock.arm("b", 70, 4, 12)}
    seconds = interleaved(arms, 2, clock=clock)
    assert seconds == {"a": (2, 3), "b": (4, 12)}
    assert "".join(clock.calls) == "baabba"
    timings = Timings(seconds, "a note")
    assert timings.ratio("a over b", "a", "b").values == (0.5, 0.25)
    assert timings.ratio("b over a", "b", "a", factor=0.5).values == (1, 2)
    rate = timings.rate("a", "images/s", "a", 12)
    assert rate.values == (6, 4)
    assert (rate.note, rate.seconds) == ("a note", seconds)


def test_after_the_limit_no_arm_begins_and_only_complete_rounds_count() -> None:
    clock = FakeClock()
    arms = {"a": clock.arm("a", 10, 2, 3), "b": clock.arm("b", 10, 4, 12, 1)}
    assert interleaved(arms, 5, clock=clock, limit=35) == {"a": (2,), "b": (4,)}
    assert "".join(clock.calls) == "baabb", (
        "26 seconds after the first round, 38 after one more arm"
    )


def test_a_limit_below_a_round_says_what_to_do() -> None:
    clock = FakeClock()
    arms = {"a": clock.arm("a", 300, 301), "b": clock.arm("b", 300)}
    with pytest.raises(TimeoutError, match="skipped: no round within 10 min; see --minutes"):
        interleaved(arms, 5, clock=clock, limit=600)


def test_rounds_of_fresh_processes_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BenchOptions(
        device="cpu", teacher="tiny_models:tiny_teacher", image_size=32, rounds=5, minutes=2
    )
    setup, now = Setup(options, tmp_path), [0.0]
    monkeypatch.setattr("kdcache.bench.setup.time.monotonic", lambda: now[0])
    done = 0
    for _ in setup.rounds():
        now[0] += 61
        done += 1
    assert done == 2 and setup.left_out(done) == "; 2 of 5 rounds within 2 min"
    assert setup.left_out(5) == ""


AVX2 = {"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}


def test_what_the_processor_emulates_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AVX2, raising=False)
    for precision in ("bf16", "fp16"):
        words = ["bench", "--quick", "--device", "cpu", "--precision", precision]
        assert f"found {precision}, which it emulates; give fp32" in refused(main, capsys, *words)
    large = build_model("resnet50", "none", seed=0, image_size=224)
    assert prepare_teacher(large, CPU, "auto").precision == "fp32"


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
    Measurement("broken", "s", fault="out of memory"),
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


def test_json_has_every_raw_number(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", [one.as_dict() for one in MEASURED])
    read = json.loads((tmp_path / "bench.json").read_text())
    assert [entry["median"] for entry in read] == [0.98, 0.3, 2000, None]
    assert [entry["target"] for entry in read] == ["≥ 0.97", "0.1 to 0.2", None, None]
    for entry, one in zip(read, MEASURED, strict=True):
        assert (entry["name"], entry["unit"], entry["note"]) == (one.name, one.unit, one.note)
        assert (tuple(entry["values"]), entry["fault"]) == (one.values, one.fault)
        seconds = {arm: tuple(values) for arm, values in entry["seconds"].items()}
        assert seconds == one.seconds


def test_the_chart_is_a_png_or_an_input_error(tmp_path: Path) -> None:
    ratio_chart(MEASURED, tmp_path / "bench.png")
    ratio_chart([], tmp_path / "empty.png")
    assert all(
        (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("bench.png", "empty.png")
    )
    with pytest.raises(KdcacheError, match="Is a directory; give the name of a file"):
        ratio_chart(MEASURED, tmp_path)


def test_the_bare_student_learns_and_the_bare_teacher_does_not() -> None:
    student = build_model(
        "kdcache.models.small_resnets:half_resnet8", None, seed=0, classes=10, image_size=32
    )
    teacher = prepare_teacher(
        build_model("tiny_models:tiny_teacher", None, seed=0, image_size=32), CPU, "fp32"
    )
    before = [
        [value.clone() for value in model.module.parameters()] for model in (student, teacher.model)
    ]
    loops.bare_student(student, "fp32", CPU, 4, 2, "none")()
    loops.bare_teacher(teacher, [4, 3])()
    changed = [
        any((old != new).any() for old, new in zip(olds, model.module.parameters(), strict=True))
        for olds, model in zip(before, (student, teacher.model), strict=True)
    ]
    assert changed == [True, False]


def test_the_reference_loop_shows_every_image_as_pil_resizes_it() -> None:
    split = noise_images(12).splits["train"]
    image, label = loops.PilImages(split, 48)[3]
    assert image.shape == (3, 48, 48) and label == split.labels[3]
    teacher, student = (build_model("tiny_models:tiny_cnn", None, seed=seed) for seed in (0, 1))
    before = [
        {key: value.clone() for key, value in one.module.state_dict().items()}
        for one in (teacher, student)
    ]
    loops.reference_loop(teacher, student, loops.PilImages(split, 32), CPU, 5, 0)()
    same = [
        all(torch.equal(old[key], value) for key, value in one.module.state_dict().items())
        for old, one in zip(before, (teacher, student), strict=True)
    ]
    assert same == [True, False]
    assert student.module.state_dict()["1.num_batches_tracked"] == 3


def test_made_up_images_are_the_same_each_time() -> None:
    first, second = noise_images(60), noise_images(60)
    assert [split.digest() for split in first.splits.values()] == [
        split.digest() for split in second.splits.values()
    ]
    assert all(set(split.labels.tolist()) == set(range(10)) for split in first.splits.values())


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"a child process failed: .*no_such"):
        in_child("no_such_function")


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(64 << 18)  # 64 MiB
    assert before > 0 and peak_memory() >= before
    assert held.sum() == 64 << 18


def test_a_child_imports_the_same_package_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kdcache").mkdir()
    (tmp_path / "kdcache" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    found = in_child("fill_cheap_cache", tmp_path / "cheap.h5", 50, "cpu")
    assert found["seconds"] > 0 and found["peak"] > 0
    assert (tmp_path / "cheap.h5").is_file()


def test_defaults_depend_on_the_device(tmp_path: Path) -> None:
    options = BenchOptions(device="cpu", teacher="tiny_models:tiny_teacher", image_size=32)
    setup = Setup(options, tmp_path)
    assert (setup.options.images, setup.student_batch) == (128, 128)
    assert setup.environment().keys() >= {"device", "threads", "torch"}


def test_a_failing_measurement_leaves_its_reason_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: Setup) -> list[Measurement]:
        raise torch.OutOfMemoryError("no room for this\nand a long story")

    def silent(setup: Setup) -> list[Measurement]:
        raise MemoryError

    monkeypatch.setattr(measurements, "phase_one", broken)
    monkeypatch.setattr(measurements, "training", silent)
    monkeypatch.setattr(measurements, "rows", lambda setup: [MEASURED[0]])
    file = tmp_path / "bench.json"
    only = ["--only", "phase-one,training,rows"]
    assert run(main, "bench", "--quick", "--device", "cpu", *only, "--json", file) == 1
    out = capsys.readouterr().out
    assert "phase-one: failed: no room for this" in out and "0.9..1" in out
    assert [line.split()[0] for line in out.splitlines()[2:7]] == [
        "what", "-" * 43, "phase-one", "training", "share",
    ]  # fmt: skip
    kept = json.loads(file.read_text())["measurements"]
    assert [entry["fault"] for entry in kept] == ["no room for this", "MemoryError", None]


def test_what_is_given_wins_over_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measurements, "rows", lambda setup: [MEASURED[0]])
    file, given = tmp_path / "bench.json", ["--images", 70, "--device", "cpu", "--only", "rows"]
    run(main, "bench", "--quick", *given, "--json", file)
    options = json.loads(file.read_text())["options"]
    assert (options["images"], options["batch_size"]) == (70, QUICK["batch_size"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--only", "phase-one,nonsense"], "found nonsense; correct the names"),
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
    assert expected in refused(main, capsys, "bench", *arguments)


def test_every_measurement_has_its_function() -> None:
    assert all(callable(getattr(measurements, n.replace("-", "_"))) for n in MEASUREMENTS)


def test_quick_gives_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    few = ["--rounds", 1, "--workers", 0]
    outcome = run(
        main, "bench", "--quick", "--device", "cpu", *few, "--json", file, "--picture", picture
    )
    out = capsys.readouterr().out
    assert outcome == 0, out
    results = json.loads(file.read_text())
    found = results["measurements"]
    names = [entry["name"] for entry in found]
    assert len(found) == len(set(names)) == 14
    assert all(len(entry["values"]) >= 1 for entry in found)
    assert all(math.isfinite(value) for entry in found for value in entry["values"])
    assert all(
        value > 0 for entry in found for value in entry["values"] if entry["unit"] != "bytes"
    )
    assert all(name in out for name in names) and results["environment"]["torch"] in out
    assert picture.read_bytes().startswith(b"\x89PNG")
