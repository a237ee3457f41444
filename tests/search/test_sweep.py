"""Many students of one cache: which ones there are, and that none is trained twice or lost."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import torch
from commands import refused, run

import precompute_teacher
from kdcache.cli.commands import sweep as command
from kdcache.cli.main import main
from kdcache.config import Span, TrainOptions
from kdcache.engine import StudentRun, TrainingData, load_training_data, train_student
from kdcache.errors import DataError, KdcacheError
from kdcache.runs import EpochRecord, RunSummary
from kdcache.runtime import open_locked
from kdcache.search import Sweep, SweepCallbacks, SweepPlan, grid, jobs, pick_jobs, study

ROOT = Path(__file__).parent.parent.parent
SHAPES = ["--dataset", "shapes", "--limit", "100", "--image-size", "16"]
STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", 1, "--batch-size", 32]


def combinations(*arguments: Any) -> list[TrainOptions]:
    return [options for _, options in grid.combinations(*arguments)]


class Said(SweepCallbacks):
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


def run_sweep(
    base: TrainOptions, training_data: TrainingData, **plan: Any
) -> tuple[list[RunSummary], list[str]]:
    said = Said()
    return Sweep(SweepPlan(base=base, **plan), training_data, said).run(), said.lines


@contextlib.contextmanager
def interrupted_after_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C once the first epoch is kept; what is lost counts as that at once."""
    monkeypatch.setattr(study, "_STARTING", timedelta())
    keep = StudentRun._keep

    def interrupted(self: StudentRun, record: EpochRecord) -> None:
        keep(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StudentRun, "_keep", interrupted)
        yield


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
    summaries, _ = run_sweep(base, training_data, choices={"alpha": (0.0, 0.5)})
    assert [entry.alpha for entry in summaries] == [0.0, 0.5]
    train_student(base.replace(out=tmp_path / "single"))
    swept = torch.load(base.out / "alpha=0.5,seed=0" / "student.pt", weights_only=True)
    alone = torch.load(tmp_path / "single" / "student.pt", weights_only=True)
    assert all(torch.equal(swept[key], alone[key]) for key in alone)


def test_the_second_call_trains_nothing(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run_sweep(base, training_data, seeds=(0, 1))
    monkeypatch.setattr(
        StudentRun, "train", lambda self: pytest.fail("a finished student was trained again")
    )
    assert run_sweep(base, training_data, seeds=(0, 1)) == (first, [])
    (base.out / "study.log").unlink()  # as in a folder of an earlier version
    assert run_sweep(base, training_data, seeds=(0, 1)) == (first, [])


def test_an_interrupted_student_goes_on(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with interrupted_after_an_epoch(monkeypatch):
        run_sweep(base, training_data)
    epochs: list[int] = []
    train_epoch = StudentRun._train_epoch
    monkeypatch.setattr(
        StudentRun,
        "_train_epoch",
        lambda self, epoch: (epochs.append(epoch), train_epoch(self, epoch)),
    )
    summaries, _ = run_sweep(base, training_data)
    assert epochs == [1] and len(summaries) == 1


def test_one_that_fails_is_recorded_and_the_rest_go_on(
    base: TrainOptions, training_data: TrainingData
) -> None:
    plan, said = SweepPlan(base=base, choices={"lr": (1e30, 0.1)}), Said()
    swept = Sweep(plan, training_data, said)
    summaries = swept.run()
    assert [entry.name for entry in summaries] == [str(base.out / "lr=0.1,seed=0")]
    _, [(name, error)] = swept.outcomes()
    assert name == "lr=1e+30,seed=0"
    assert "expected a finite loss that does not explode" in error
    assert any("failed: expected a finite loss" in line for line in said.lines)
    again = Said()
    assert len(Sweep(plan, training_data, again).run()) == 1
    assert again.lines[0] == "lr=1e+30,seed=0", "tried again in the next call"


def test_nobody_takes_a_student_for_lost_until_the_study_knows_its_end(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another process would have its trial fail, and this one could not complete it."""
    folder, tell, ends = base.out / "seed=0", optuna.storages.JournalStorage, []
    record = tell.set_trial_state_values

    def held(self: Any, trial: int, state: optuna.trial.TrialState, *values: Any) -> bool:
        if state.is_finished():
            ends.append(state.name)
            with pytest.raises(BlockingIOError):
                open_locked(folder / "lock")
        return record(self, trial, state, *values)

    monkeypatch.setattr(tell, "set_trial_state_values", held)
    run_sweep(base.replace(epochs=1), training_data)
    assert ends == ["COMPLETE"]
    os.close(open_locked(folder / "lock"))


@pytest.mark.parametrize("left", ["finished", "killed"])
def test_one_that_another_process_trains_is_waited_for(
    left: str, base: TrainOptions, training_data: TrainingData
) -> None:
    """What it finished counts, what it left unfinished is done here."""
    folder = combinations(base, {}, (0,))[0].out
    folder.mkdir(parents=True)
    held = open_locked(folder / "lock")

    def the_other_ends() -> None:
        if left == "finished":
            train_student(base.replace(out=base.out / "elsewhere"), training_data)
            shutil.copytree(base.out / "elsewhere", folder, dirs_exist_ok=True, ignore=no_lock)
        os.close(held)

    no_lock = shutil.ignore_patterns("lock")
    threading.Timer(0.5, the_other_ends).start()  # well after the wait began
    summaries, said = run_sweep(base, training_data)
    assert [entry.seed for entry in summaries] == [0]
    assert said[:1] == ([] if left == "finished" else ["seed=0"])


def test_where_the_images_lie_is_no_other_sweep(
    base: TrainOptions, training_data: TrainingData
) -> None:
    summaries, _ = run_sweep(base, training_data)
    assert run_sweep(base.replace(stream=True), training_data)[0] == summaries
    with pytest.raises(KdcacheError, match="found --set stream"):
        SweepPlan(base=base, choices={"stream": (False, True)})


def test_a_folder_of_another_sweep_is_refused(
    base: TrainOptions, training_data: TrainingData
) -> None:
    run_sweep(base, training_data)
    with pytest.raises(
        KdcacheError,
        match=r"expected a sweep folder of the same options; found .* with epochs 2, not 3",
    ):
        run_sweep(base.replace(epochs=3), training_data)


def test_a_pruned_student_is_neither_tested_nor_tried_again(
    base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: four others reached 0.5 by epoch 1, so 0.4 is below the median and 0.6 is not."""
    accuracies = {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5, 4: 0.4, 5: 0.6}
    keep = StudentRun._keep

    def pretend(self: StudentRun, record: EpochRecord) -> None:
        seed = self.config.seed
        keep(self, dataclasses.replace(record, validation_accuracy=accuracies[seed]))

    monkeypatch.setattr(StudentRun, "_keep", pretend)
    plan, said = SweepPlan(base=base, seeds=range(6), pruner="median"), Said()
    swept = Sweep(plan, training_data, said)
    assert [summary.seed for summary in swept.run()] == [0, 1, 2, 3, 5]
    assert swept.outcomes() == (["seed=4"], [])
    assert "seed=4: ended early by the median pruner" in said.lines
    assert not (base.out / "seed=4" / "student.pt").exists()
    assert run_sweep(base, training_data, seeds=range(6), pruner="median")[1] == []


class TestSearch:
    def plan(self, base: TrainOptions, **more: Any) -> dict[str, Any]:
        spans = {"temperature": Span(1, 8, log=True), "batch_size": Span(30, 40, whole=True)}
        plan: dict[str, Any] = {"spans": spans, "choices": {"alpha": (0.5, 0.9)}, "search": 3}
        return plan | {"seeds": (0, 1)} | more

    def test_every_setting_is_within_its_bounds_and_has_every_seed(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        base = base.replace(epochs=1)
        swept = Sweep(SweepPlan(base=base, **self.plan(base)), training_data)
        assert len(swept.run()) == 6
        seeds: dict[tuple[object, ...], set[int]] = {}
        for options in swept.students:
            setting = (options.temperature, options.batch_size, options.alpha)
            seeds.setdefault(setting, set()).add(options.seed)
            assert 1 <= options.temperature <= 8 and options.alpha in (0.5, 0.9)
            assert options.batch_size in range(30, 41)
            assert options.temperature == float(f"{options.temperature:.4g}")
            name = f"alpha={options.alpha},temperature={options.temperature}"
            assert options.out.name == f"{name},batch_size={options.batch_size},seed={options.seed}"
        assert len(seeds) == 3 and all(found == {0, 1} for found in seeds.values())
        # the same command trains nothing, a larger --search one setting more
        said = Said()
        assert len(Sweep(SweepPlan(base=base, **self.plan(base)), training_data, said).run()) == 6
        assert said.lines == []
        more = run_sweep(base, training_data, **self.plan(base, search=4))
        assert len(more[0]) == 8 and len(more[1]) == 4, "a line before and after each of two"

    def test_the_same_seed_tries_the_same_settings(
        self, base: TrainOptions, training_data: TrainingData, tmp_path: Path
    ) -> None:
        found = []
        for out in (tmp_path / "a", tmp_path / "b"):
            plan = self.plan(base, seeds=(7,), search=2, sampler="random")
            swept = Sweep(SweepPlan(base=base.replace(epochs=1, out=out), **plan), training_data)
            swept.run()
            found.append({options.out.name for options in swept.students})
        assert found[0] == found[1] and len(found[0]) == 2

    def test_a_killed_one_goes_on_with_its_own_values(
        self, base: TrainOptions, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = SweepPlan(base=base, **self.plan(base, search=2, seeds=(0,)))
        with interrupted_after_an_epoch(monkeypatch):
            Sweep(plan, training_data).run()
        [begun] = [path.parent.name for path in base.out.glob("*/last.pt")]
        summaries = Sweep(plan, training_data).run()
        assert begun in {Path(summary.name).name for summary in summaries}
        assert len(summaries) == 2 == len(list(base.out.glob("*/config.json")))

    @pytest.mark.parametrize("lost", ["failed", "killed"])
    def test_one_that_is_tried_again_is_no_further_setting(
        self,
        lost: str,
        base: TrainOptions,
        training_data: TrainingData,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(study, "_STARTING", timedelta())
        base = base.replace(epochs=1)
        plan = self.plan(base, search=2, seeds=(0,))
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            error = RuntimeError("no room") if lost == "failed" else KeyboardInterrupt()
            patch.setattr(StudentRun, "train", Mock(side_effect=error))
            run_sweep(base, training_data, **plan)
        assert len(run_sweep(base, training_data, **plan)[0]) == 2
        assert len(run_sweep(base, training_data, **plan | {"search": 3})[0]) == 3

    def test_a_database_holds_the_study(
        self, base: TrainOptions, training_data: TrainingData, tmp_path: Path
    ) -> None:
        url = f"sqlite:///{tmp_path}/study.db"
        plan = self.plan(base, search=1, storage=url)
        assert len(run_sweep(base.replace(epochs=1), training_data, **plan)[0]) == 2
        trials = optuna.load_study(study_name=None, storage=url).trials
        reached = {
            float(json.loads(path.read_text())["validation_accuracy"])
            for path in base.out.glob("*/summary.json")
        }
        assert {trial.value for trial in trials} == reached
        assert not (base.out / "study.log").exists()

    def test_a_damaged_study_is_named(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        base.out.mkdir(parents=True)
        (base.out / "study.log").write_text("{" * 10 + "\n" + "{}\n")
        with pytest.raises(DataError, match=r"expected a study in .*study\.log; found"):
            run_sweep(base, training_data)


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
        (["--range", "alpha=0:1"], "expected --range with --search; found no --search"),
        (["--search", 3], "expected --search with --range or --set; found neither"),
        (["--search", 0, "--set", "alpha=0,1"], "expected at least 1 for --search; found 0"),
        (["--sampler", "tpe"], "expected --sampler with --search; found no --search"),
        (
            ["--search", 3, "--range", "alpha=0:2"],
            "expected --alpha to be 0 to 1; found --alpha 2",
        ),
        (
            ["--search", 3, "--range", "alpha=1:0"],
            "found --range alpha=1:0 (LOW below HIGH, and above 0 with log)",
        ),
        (["--search", 3, "--range", "lr=0:1:log"], "found --range lr=0:1:log"),
        (["--search", 3, "--range", "loss=kl:dist"], "found --range loss=kl:dist"),
        (["--search", 3, "--range", "warmth=1:2"], "found --range warmth=1:2; see its --help"),
        (
            ["--search", 3, "--range", "lr=0.1:1", "--set", "lr=0.1,0.2"],
            "expected an option in --set or in --range; found lr in both",
        ),
        (["--storage", "nothing"], "expected a study in nothing; found"),
        (["--seeds", 0], "expected at least 1 for --seeds; found 0"),
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


class TestJobs:
    """How many processes a sweep has by default."""

    @pytest.fixture(autouse=True)
    def room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For three processes of students that are built in 16 x 16 pixels and batches of 32."""

        def fit(size: float) -> int:
            assert 32 * 3 * 16 * 16 < size < 1e8
            return 3

        monkeypatch.setattr(jobs, "processes_that_fit", fit)

    @pytest.mark.parametrize(
        ("cores", "students", "expected"), [(1, 3, 1), (2, 3, 2), (8, 2, 2), (8, 5, 3), (2, 0, 1)]
    )
    def test_as_many_as_cores_students_and_memory_allow(
        self,
        cores: int,
        students: int,
        expected: int,
        base: TrainOptions,
        training_data: TrainingData,
    ) -> None:
        plan = SweepPlan(base=base, seeds=range(students))
        assert pick_jobs(plan, training_data, cores) == expected

    def test_finished_students_need_none(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        plan = SweepPlan(base=base, seeds=(0, 1))
        for _, options in plan.grid[:1]:
            options.out.mkdir(parents=True)
            (options.out / "summary.json").touch()
        assert pick_jobs(plan, training_data, 8) == 1

    def test_one_where_the_order_decides_what_is_trained(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        search = SweepPlan(base=base, spans={"alpha": Span(0, 1)}, search=5)
        pruned = SweepPlan(base=base, seeds=(0, 1), pruner="median")
        assert [pick_jobs(plan, training_data, 8) for plan in (search, pruned)] == [1, 1]

    def test_one_on_a_gpu(
        self,
        base: TrainOptions,
        training_data: TrainingData,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(jobs, "pick_device", lambda name: torch.device("cuda"))
        assert pick_jobs(SweepPlan(base=base, seeds=(0, 1)), training_data, 8) == 1

    def test_a_student_that_cannot_be_built_is_left_to_the_sweep(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        plan = SweepPlan(base=base, choices={"student": ("tiny_models:tiny_cnn", "resnet1")})
        assert pick_jobs(plan, training_data, 8) == 2


class TestHelpers:
    """Real ones: `--jobs 2` starts a process, which must not outlive this one."""

    def command(self, base: TrainOptions, *more: str, jobs: int = 2) -> list[str]:
        words = [sys.executable, "-m", "kdcache", "sweep", str(base.cache), "--jobs", str(jobs)]
        words += ["--out", str(base.out), "--student", "tiny_models:tiny_cnn", *more]
        return words

    def test_they_share_the_students_and_the_table_has_theirs(
        self,
        base: TrainOptions,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A helper that starts from nothing, as with GPUs; those below are forked."""
        monkeypatch.setattr(command, "_FORKS", False)
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
        assert process.returncode == 128 + number, printed
        assert "0 of 4 students are finished; the same command goes on" in printed
        assert "Traceback" not in printed
        for folder in base.out.glob("*/"):
            os.close(open_locked(folder / "lock"))  # nobody is at it any more

    def test_what_a_killed_one_was_training_is_finished_by_another(
        self, base: TrainOptions, training_data: TrainingData
    ) -> None:
        metrics = base.out / "seed=0" / "metrics.jsonl"
        options = ["--epochs", "40", "--batch-size", "32", "--seeds", "2"]
        with subprocess.Popen(
            self.command(base, *options, jobs=1),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        ) as other:
            while other.poll() is None and not metrics.exists():
                time.sleep(0.005)
            other.send_signal(signal.SIGSTOP)
            reached = len(metrics.read_text().splitlines())
            threading.Timer(1, other.kill).start()  # while this process trains, or waits for it
            summaries, said = run_sweep(base.replace(epochs=40), training_data, seeds=(0, 1))
        assert reached < 40, "it was killed in the middle"
        assert [summary.seed for summary in summaries] == [0, 1]
        assert "seed=0" in said, "gone on with here"
        whole = train_student(base.replace(epochs=40, out=base.out / "whole"), training_data)
        assert summaries[0].test_accuracy == whole.test_accuracy


def test_an_interrupted_sweep_says_how_far_it_came(
    base: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(run: StudentRun) -> None:
        raise KeyboardInterrupt  # anywhere, without words of its own

    monkeypatch.setattr("kdcache.cli.callbacks.report.draw_pictures", interrupted)
    assert run(main, "sweep", base.cache, *STUDENT, "--seeds", 2, "--out", base.out) == 130
    assert (
        "interrupted; 0 of 2 students are finished; the same command goes on"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("owner", "during"), [(optuna.Trial, "set_user_attr"), (optuna.Study, "optimize")]
)
def test_so_does_one_that_was_interrupted_while_optuna_gave_back_its_lock(
    owner: type,
    during: str,
    base: TrainOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise RuntimeError("did not possess lock") from None  # nor may it hide it so

    monkeypatch.setattr(owner, during, interrupted)
    words = ["--seeds", 2, "--out", base.out]
    assert run(main, "sweep", base.cache, *STUDENT, *words) == 130
    assert "interrupted; 0 of 2 students are finished;" in capsys.readouterr().err
