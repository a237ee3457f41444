"""Many students of one cache: which ones there are, and that none is trained twice or lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from commands import refused, run

import precompute_teacher
from kdcache.cli.main import main
from kdcache.config import TrainOptions
from kdcache.engine import StudentRun, TrainingData, load_training_data, train_student
from kdcache.errors import KdcacheError
from kdcache.runs import EpochRecord, RunSummary
from kdcache.runtime import open_locked
from kdcache.search import combinations, sweep

ROOT = Path(__file__).parent.parent.parent
SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", 1, "--batch-size", 32]


class Said(sweep.SweepCallbacks):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "teacher.h5"
    teacher = ["--teacher", "tiny_models:tiny_teacher", "--views", 2, "--augment", "flip"]
    assert run(precompute_teacher.main, *SHAPES, *teacher, "--cache", path) == 0
    return path


@pytest.fixture(scope="module")
def training_data(cache: Path) -> TrainingData:
    return load_training_data(TrainOptions(cache=cache))


@pytest.fixture
def base(cache: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        cache=cache, student="tiny_models:tiny_cnn", epochs=2, batch_size=32, out=tmp_path / "sweep"
    )


def train_all(
    students: list[TrainOptions], training_data: TrainingData
) -> tuple[list[RunSummary], list[str]]:
    said = Said()
    return sweep.train_all(students, training_data, said), said.lines


def test_every_combination_has_every_seed(base: TrainOptions) -> None:
    students = combinations(base, {"temperature": (1.0, 4.0), "alpha": (0.0, 0.5, 0.9)}, (0, 1))
    found = [(student.seed, student.temperature, student.alpha) for student in students]
    default = TrainOptions.temperature
    assert found == [
        (s, t, a)
        for s in (0, 1)
        for t, a in ((default, 0.0), (1.0, 0.5), (1.0, 0.9), (4.0, 0.5), (4.0, 0.9))
    ], "with alpha 0 the temperature does nothing"
    assert students[0].out == base.out / "alpha=0.0,seed=0"
    assert students[1].out == base.out / "temperature=1.0,alpha=0.5,seed=0"
    assert len({student.out for student in students}) == 10


def test_what_labels_only_students_do_not_need_makes_no_other_student(base: TrainOptions) -> None:
    settings = {
        "loss": ("kl", "dist"),
        "alpha": (0.0,),
        "augment": ("flip", "none"),
        "temperature": (1.0, 2.0),
    }
    students = combinations(base.replace(temperature=3.0), settings, (0,))
    assert [student.out.name for student in students] == [
        "alpha=0.0,augment=flip,seed=0",
        "alpha=0.0,augment=none,seed=0",
    ]
    assert students[0].temperature == TrainOptions.temperature, "as in any such student's folder"


def test_recipes_are_swept_and_leave_what_is_given_for_all(base: TrainOptions) -> None:
    settings = {"recipe": ("hinton", "dist")}
    students = combinations(base.replace(temperature=2.0), settings, (0,), ["temperature"])
    assert [(one.out.name, one.loss, one.weights, one.temperature) for one in students] == [
        ("recipe=hinton,seed=0", "kl", (pytest.approx(0.1), 0.9), 2.0),
        ("recipe=dist,seed=0", "dist", (1.0, 2.0), 2.0),
    ]


def test_without_settings_there_are_the_seeds(base: TrainOptions) -> None:
    assert [student.out.name for student in combinations(base, {}, (3, 4))] == [
        "seed=3",
        "seed=4",
    ]


def test_a_sweep_trains_what_single_runs_would(
    base: TrainOptions, training_data: TrainingData, tmp_path: Path
) -> None:
    summaries, _ = train_all(combinations(base, {"alpha": (0.0, 0.5)}, (0,)), training_data)
    assert [entry.alpha for entry in summaries] == [0.0, 0.5]
    train_student(base.replace(out=tmp_path / "single"))
    swept = torch.load(base.out / "alpha=0.5,seed=0" / "student.pt", weights_only=True)
    alone = torch.load(tmp_path / "single" / "student.pt", weights_only=True)
    assert all(torch.equal(swept[key], alone[key]) for key in alone)


def test_the_second_call_trains_nothing(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = combinations(base, {}, (0, 1))
    first, _ = train_all(students, training_data)
    monkeypatch.setattr(
        StudentRun, "train", lambda self: pytest.fail("a finished student was trained again")
    )
    assert train_all(students, training_data) == (first, [])


def test_an_interrupted_student_goes_on(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = combinations(base, {}, (0,))
    keep = StudentRun._keep

    def interrupted(self: StudentRun, record: EpochRecord) -> None:
        keep(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StudentRun, "_keep", interrupted)
        train_all(students, training_data)
    epochs: list[int] = []
    train_epoch = StudentRun._train_epoch
    monkeypatch.setattr(
        StudentRun,
        "_train_epoch",
        lambda self, epoch: (epochs.append(epoch), train_epoch(self, epoch)),
    )
    summaries, _ = train_all(students, training_data)
    assert epochs == [1] and len(summaries) == 1


def test_one_that_fails_is_recorded_and_the_rest_go_on(
    base: TrainOptions, training_data: TrainingData
) -> None:
    students = combinations(base, {"lr": (1e30, 0.1)}, (0,))
    summaries, said = train_all(students, training_data)
    assert [entry.name for entry in summaries] == [str(base.out / "lr=0.1,seed=0")]
    failed = json.loads((base.out / "lr=1e+30,seed=0" / "failed.json").read_text())["error"]
    assert "expected a finite loss that does not explode" in failed and any(
        "failed: expected a finite loss" in line for line in said
    )


@pytest.mark.parametrize("left", ["finished", "failed", "killed"])
def test_one_that_another_process_trains_is_waited_for_at_the_end(
    left: str, base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finished counts, what it left unfinished is done here."""
    students, trained = combinations(base, {}, (0, 1)), []
    folder = students[0].out
    folder.mkdir(parents=True)
    train_one = sweep._train_one

    def counted(options: TrainOptions, *others: object) -> None:
        trained.append(options.seed)
        if options.seed == 1:
            threading.Timer(0.5, the_other_ends).start()  # well after the wait began
        train_one(options, *others)  # type: ignore[arg-type]

    def the_other_ends() -> None:
        if left == "finished":
            train_student(students[0].replace(out=base.out / "elsewhere"), training_data)
            shutil.copytree(base.out / "elsewhere", folder, dirs_exist_ok=True, ignore=no_lock)
        elif left == "failed":
            (folder / "failed.json").write_text('{"error": "expected"}')
        os.close(held)

    no_lock = shutil.ignore_patterns("lock")
    monkeypatch.setattr(sweep, "_train_one", counted)
    held = open_locked(folder / "lock")
    summaries, said = train_all(students, training_data)
    assert "seed=0: another process is at it" in said
    assert trained == ([1, 0] if left == "killed" else [1])
    assert [entry.seed for entry in summaries] == ([1] if left == "failed" else [0, 1])


def test_where_the_images_lie_is_no_other_sweep(
    base: TrainOptions, training_data: TrainingData
) -> None:
    summaries, _ = train_all(combinations(base, {}, (0,)), training_data)
    assert (
        train_all(combinations(base.replace(stream=True), {}, (0,)), training_data)[0] == summaries
    )
    with pytest.raises(KdcacheError, match="found --set stream"):
        combinations(base, {"stream": (False, True)}, (0,))


def test_a_folder_of_another_sweep_is_refused(
    base: TrainOptions, training_data: TrainingData
) -> None:
    train_all(combinations(base, {}, (0,)), training_data)
    with pytest.raises(
        KdcacheError,
        match=r"expected a sweep folder of the same options; found .* with epochs 2, not 3",
    ):
        train_all(combinations(base.replace(epochs=3), {}, (0,)), training_data)


def test_hopeless_students_are_stopped_by_the_median_rule(
    base: TrainOptions, training_data: TrainingData
) -> None:
    """By hand: two others reached 0.5 and 0.7 by epoch 1, so 0.6 is the median.

    0.55 is below it, 0.65 is not.
    """
    students = combinations(base.replace(epochs=4), {}, (0, 1, 2))
    for options, accuracies in zip(students, ((0.5, 0.9), (0.7, 0.1), (0.1,)), strict=True):
        options.out.mkdir(parents=True)
        lines = [
            json.dumps(EpochRecord(epoch, accuracy).to_json())
            for epoch, accuracy in enumerate(accuracies, 1)
        ]
        (options.out / "metrics.jsonl").write_text("\n".join(lines))
    assert sweep._below_median(students, [EpochRecord(1, 0.55)])
    assert not sweep._below_median(students, [EpochRecord(1, 0.65)])
    # a quarter of 8 epochs is 2: after the first nobody is stopped
    longer = [options.replace(epochs=8) for options in students]
    assert not sweep._below_median(longer, [EpochRecord(1, 0.0)])


def test_a_stopped_student_is_neither_tested_nor_tried_again(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = combinations(base, {}, (0,))
    monkeypatch.setattr(sweep, "_below_median", lambda students, history: True)
    said = Said()
    assert sweep.train_all(students, training_data, said, stop_early=True) == []
    assert said.lines[-1] == "seed=0: stopped after epoch 1, below the median"
    assert json.loads((students[0].out / "stopped.json").read_text())["epoch"] == 1
    assert not (students[0].out / "student.pt").exists()
    said.lines.clear()
    assert sweep.train_all(students, training_data, said, stop_early=True) == []
    assert said.lines == []


def test_the_command(base: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "sweep",
        base.cache,
        "--set",
        "temperature=1,4",
        "--set",
        "alpha=0,0.5",
        "--seeds",
        2,
        "--out",
        base.out,
    ]
    assert run(main, *arguments, *STUDENT) == 0
    assert {path.parent.name for path in base.out.glob("*/summary.json")} == {
        f"{setting},seed={seed}"
        for setting in ("alpha=0.0", "temperature=1.0,alpha=0.5", "temperature=4.0,alpha=0.5")
        for seed in (0, 1)
    }
    printed = capsys.readouterr().out
    assert "8 combinations are 6 students" in printed
    rows = [line.split("  ")[0] for line in printed.splitlines()]
    for what in ("labels only", "distilled, T 1", "distilled, T 4"):
        assert rows.count(what) == 1, "a row a setting, over its seeds"


def test_a_student_whose_record_is_damaged_is_named_and_the_table_goes_on(
    base: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", base.cache, "--seeds", 2, "--out", base.out, *STUDENT]
    assert run(main, *arguments) == 0
    (base.out / "seed=0" / "metrics.jsonl").write_text("{")
    capsys.readouterr()
    assert run(main, *arguments) == 1
    shown = capsys.readouterr()
    assert "left out: expected" in shown.err and "metrics.jsonl" in shown.err
    assert "1 of 2 students are not finished" in shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "warmth=1"],
            "expected --set OPTION=VALUE,VALUE,... with an option of train_student.py;"
            " found --set warmth=1",
        ),
        (["--set", "temperature"], "found --set temperature"),
        (
            ["--set", "temperature=hot"],
            "expected values that --temperature takes; found --set temperature=hot",
        ),
        (
            ["--set", "temperature=-1"],
            "expected --temperature to be above 0; found --temperature -1",
        ),
        (
            ["--set", "loss=l2"],
            "expected --loss to be one of kl, standardized-kl, dkd, dist, mse, or"
            " package.module:name; found --loss l2",
        ),
        (
            ["--set", "labels=dataset,teacher"],
            "expected --set of options in which students of one cache can differ;"
            " found --set labels",
        ),
        (["--set", "seed=1,2"], "found --set seed; run a sweep for each value, or use --seeds"),
        (["--warmth", 3], "unrecognized arguments: --warmth 3"),
        (["--seeds", 0], "expected at least 1 for --seeds and --jobs; found 0 and 1"),
        (
            ["--set", "alpha=0", "--set", "alpha=1"],
            "expected each option in one --set; found alpha=0 alpha=1",
        ),
    ],
)
def test_bad_settings_are_refused(
    arguments: list[object], message: str, base: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(main, capsys, "sweep", base.cache, "--out", base.out, *arguments)
    assert not base.out.exists()


class TestHelpers:
    """Real ones: `--jobs 2` starts a process, which must not outlive this one."""

    def command(self, base: TrainOptions, *more: str) -> list[str]:
        words = [sys.executable, "-m", "kdcache", "sweep", str(base.cache), "--jobs", "2"]
        words += ["--out", str(base.out), "--student", "tiny_models:tiny_cnn", *more]
        return words

    def test_they_share_the_students_and_the_table_has_theirs(
        self, base: TrainOptions, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ["--epochs", "1", "--batch-size", "32", "--seeds", "2"]
        assert run(main, *self.command(base, *options)[3:]) == 0
        assert len(list(base.out.glob("*/summary.json"))) == 2
        table = capsys.readouterr().out.splitlines()
        rows = [line.split()[:3] for line in table]
        assert ["distilled", "tiny_models:tiny_cnn", "2"] in rows  # both seeds

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_they_end_with_the_sweep(self, number: signal.Signals, base: TrainOptions) -> None:
        process = subprocess.Popen(
            self.command(base, "--epochs", "100000", "--seeds", "4"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and len(list(base.out.glob("*/last.pt"))) < 2:
            time.sleep(0.05)
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "0 of 4 students are finished; the same command goes on" in printed
        assert "Traceback" not in printed
        for folder in base.out.iterdir():
            os.close(open_locked(folder / "lock"))  # nobody is at it any more


def test_an_interrupted_sweep_says_how_far_it_came(
    base: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: StudentRun) -> None:
        raise KeyboardInterrupt  # anywhere, without words of its own

    monkeypatch.setattr("kdcache.cli.callbacks.draw_pictures", interrupted)
    assert run(main, "sweep", base.cache, *STUDENT, "--seeds", 2, "--out", base.out) == 130
    assert (
        "interrupted; 0 of 2 students are finished; the same command goes on"
        in capsys.readouterr().err
    )
