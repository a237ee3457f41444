"""Many students of one cache: which ones there are, and that none is trained twice or lost."""

import fcntl
import json
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
from kdcache.search import combinations, sweep

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
    assert found == [(s, t, a) for s in (0, 1) for t in (1.0, 4.0) for a in (0.0, 0.5, 0.9)]
    assert students[1].out == base.out / "temperature=1.0,alpha=0.5,seed=0"
    assert len({student.out for student in students}) == 12


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


def test_one_that_another_process_trains_is_left_to_it(
    base: TrainOptions, training_data: TrainingData
) -> None:
    students = combinations(base, {}, (0, 1))
    students[0].out.mkdir(parents=True)
    with open(students[0].out / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summaries, said = train_all(students, training_data)
    assert [entry.seed for entry in summaries] == [1] and "seed=0: another process is at it" in said


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
    assert len(list(base.out.glob("*/summary.json"))) == 8
    assert "temperature=4.0,alpha=0.5,seed=1" in capsys.readouterr().out


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


def test_helpers_share_the_students_and_the_table_has_theirs(
    base: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    """A helper holds the lock of the last student until this process has finished all others."""
    started: list[list[str]] = []

    class Helper:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)
            (base.out / "seed=1").mkdir(parents=True)
            self._lock = (base.out / "seed=1" / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

        def wait(self) -> None:
            self._lock.close()
            assert run(main, "sweep", *started[0][4:]) == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.cli.commands.sweep.subprocess.Popen", Helper)
        assert (
            run(main, "sweep", base.cache, *STUDENT, "--seeds", 2, "--out", base.out, "--jobs", 2)
            == 0
        )
    assert started[0][1:4] == ["-m", "kdcache.cli.commands.sweep", "2"]
    assert started[0][-2:] == ["--jobs", "1"]
    table = capsys.readouterr().out.splitlines()
    assert "seed=1: another process is at it" in table
    header, _, *lines = table[-4:]
    assert header.split()[:3] == ["what", "model", "n"]
    rows = [line.split()[:3] for line in lines]
    assert ["distilled", "tiny_models:tiny_cnn", "2"] in rows  # both seeds


def test_an_interrupted_sweep_says_how_far_it_came(
    base: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: StudentRun) -> None:
        raise KeyboardInterrupt  # anywhere, without words of its own

    monkeypatch.setattr("kdcache.cli.callbacks.draw_pictures", interrupted)
    assert run(main, "sweep", base.cache, *STUDENT, "--seeds", 2, "--out", base.out) == 130
    assert (
        "interrupted; 1 of 2 students are finished; the same command goes on"
        in capsys.readouterr().err
    )
