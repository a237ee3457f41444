"""A run's folder: made, found and read, whatever it holds."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import refused
from finished_runs import IMAGES, NAMES, summary_of, write_run, write_sweep

from kdcache.cli.main import main
from kdcache.cli.parser import parse_options
from kdcache.config import TrainOptions
from kdcache.errors import DataError, OptionError
from kdcache.runs import (
    RUN_FILES,
    best_labels_only,
    find_runs,
    read_config,
    read_history,
    read_run,
    read_summary,
    reader,
    resumed_options,
)
from kdcache.runs import folder as folder_module
from kdcache.runs.folder import config_digest, history_digest, remove, start_run
from kdcache.runs.predictions import read_predictions, save_predictions
from kdcache.runtime import with_digest

V01 = Path(__file__).parent.parent / "data" / "v0.1"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "runs" / "sweep")


class TestStarting:
    def test_a_folder_that_holds_a_run_is_kept(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        with pytest.raises(
            OptionError, match=r"without a run in it; found .*run with config\.json"
        ):
            start_run(folder, overwrite=False)
        assert read_summary(folder) is not None

    def test_or_replaced_but_for_what_is_not_the_runs(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        for name in (*RUN_FILES, "notes.txt"):
            (folder / name).touch()
        (folder / "vis").mkdir()
        start_run(folder, overwrite=True)
        assert [path.name for path in folder.iterdir()] == ["notes.txt"]

    def test_one_that_is_not_there_is_made(self, tmp_path: Path) -> None:
        start_run(tmp_path / "new" / "run", overwrite=False)
        assert (tmp_path / "new" / "run").is_dir()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="the right to write the run's folder") as error:
            start_run(tmp_path / "file" / "run", overwrite=False)
        assert str(tmp_path / "file" / "run") in str(error.value)

    def test_what_is_removed_stays_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = list[Path]()

        def sync(path: Path) -> None:
            assert not (path / "summary.json").exists()
            synced.append(path)

        (tmp_path / "summary.json").touch()
        monkeypatch.setattr(folder_module, "sync_folder", sync)
        remove(tmp_path, ["summary.json", "student.pt"])
        assert synced == [tmp_path]


class TestReading:
    def test_a_finished_run(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5, alpha=0.5, seed=2)
        run = read_run(folder)
        assert run.name == str(folder) and run.class_names == NAMES
        assert run.summary == summary_of(str(folder), 0.5, alpha=0.5, seed=2)
        assert run.config is not None and run.config.options.student == "resnet18"
        assert [epoch.epoch for epoch in run.history] == [1, 2, 3]

    def test_what_its_card_says(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        assert read_run(folder).image_shape is None  # as in older versions
        card = json.loads((folder / "student.json").read_text()) | {"image_shape": [32, 48]}
        (folder / "student.json").write_text(json.dumps(card))
        assert read_run(folder).image_shape == (32, 48)
        (folder / "student.json").unlink()
        run = read_run(folder, "its name")
        assert (run.image_shape, run.class_names, run.name) == (None, (), "its name")

    def test_it_is_utf_8_whatever_the_system_uses(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        document = json.loads((folder / "summary.json").read_text()) | {"name": "Läufer"}
        (folder / "summary.json").write_bytes(json.dumps(document, ensure_ascii=False).encode())
        script = "import sys; from pathlib import Path; from kdcache.runs import read_summary;"
        script += "print(ascii(read_summary(Path(sys.argv[1])).name))"
        ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)],
            env=os.environ | ascii_only | {"PYTHONPATH": str(V01.parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert done.stdout == "'L\\xe4ufer'\n"

    def test_blank_lines_of_the_history_are_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text(
            '{"epoch": 1, "validation_accuracy": 0.5}\n \n{"epoch": 2, "validation_accuracy": 0.5}'
        )
        assert [record.epoch for record in read_history(tmp_path)] == [1, 2]

    def test_nothing_there_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
            assert (read_config(folder), read_summary(folder)) == (None, None)
            assert read_history(folder) == []
            with pytest.raises(DataError) as error:
                read_run(folder)
            assert str(error.value) == (
                f"expected the folder of a finished run; found {folder} without summary.json;"
                " train a student there first, or finish one: the same command resumes it"
            )
            with pytest.raises(DataError, match=r"the folder of a run; found .* without config"):
                resumed_options(folder)

    @pytest.mark.parametrize(
        ("name", "text", "fault"),
        [
            ("config.json", '{"options": 3}', "options: expected an object, found 3"),
            ("config.json", '{"options": {"alpha": 2}}', "--alpha to be 0 to 1, found --alpha 2"),
            ("config.json", '{"options": {"alpha": "x"}}', "options: '<=' not supported"),
            ("summary.json", '{"name": "a"}', "student: missing"),
            ("summary.json", "\xff", "codec can't decode"),
            ("summary.json", "[" * 100_000, "recursion"),
            (
                "metrics.jsonl",
                '{"epoch": 1, "validation_accuracy": 1}\n{"epoch": 0}',
                "line 2: val",
            ),
        ],
    )
    def test_the_file_and_the_field_are_named(
        self, name: str, text: str, fault: str, tmp_path: Path
    ) -> None:
        (write_run(tmp_path / "run", 0.5) / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError) as caught:
            read_run(tmp_path / "run")
        assert f"{name} as train_student.py writes it" in str(caught.value)
        assert caught.value.remedy == "repair it or train anew"
        assert fault in str(caught.value)

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "summary.json").mkdir()
        with pytest.raises(DataError, match="Is a directory"):
            read_summary(tmp_path)

    def test_an_interrupted_run_goes_on_in_its_own_folder(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", None, alpha=0.5, finished=False)
        moved = folder.rename(tmp_path / "moved")
        options = resumed_options(moved)
        assert (options.out, options.alpha) == (moved, 0.5)


class TestTheBestLabelsOnlyRunBeside:
    def test_of_those_with_the_same_validation_images(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.9, validation_digest="v")
        write_run(tmp_path / "a0", 0.9, validation_digest="v", seed=9, alpha=0.5)
        write_run(tmp_path / "b", 0.1, validation_digest="v", seed=3)
        write_run(tmp_path / "c", 0.9, validation_digest="w", seed=9)
        write_run(tmp_path / "e", 0.9, validation_digest=None, seed=9)
        write_run(tmp_path / "f", 0.8, validation_digest="v", seed=2)
        best = best_labels_only(tmp_path / "new", "v")
        assert best is not None and best.name == str(tmp_path / "b")
        assert best_labels_only(tmp_path / "new", "x") is None

    @pytest.mark.parametrize("text", ["{}", "[]", "", '{"name": "of something else", "loss": 3}'])
    def test_what_is_no_runs_is_passed_over(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "foreign").mkdir()
        (tmp_path / "foreign" / "summary.json").write_text(text)
        assert best_labels_only(tmp_path / "new", "v") is None
        write_run(tmp_path / "run", 0.5, validation_digest="v")
        assert best_labels_only(tmp_path / "new", "v") is not None


class TestFinding:
    def test_folders_of_runs_and_runs_are_found_once(self, sweep: Path) -> None:
        for folders in ([sweep], [sweep.parent], [sweep / "labels-0", sweep, sweep.parent]):
            runs, unfinished = find_runs(folders)
            assert len({run.folder.resolve() for run in runs}) == len(runs) == 15
            assert [path.name for path in unfinished] == ["late"]
        assert {run.name for run in runs} >= {"labels-0", "T2-a0.5-1"}

    def test_names_are_what_the_paths_differ_in(self, sweep: Path, tmp_path: Path) -> None:
        assert find_runs([sweep / "labels-0"])[0][0].name == str(sweep / "labels-0")
        write_run(tmp_path / "runs" / "alone", 0.5)
        runs, unfinished = find_runs([sweep / "labels-0", sweep.parent / "alone", sweep / "late"])
        assert [run.name for run in runs] == ["sweep/labels-0", "alone"]
        assert unfinished == [sweep / "late"]

    def test_what_cannot_be_read_is_told_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        for name in "abc":
            write_run(tmp_path / name, 0.5)
        told: list[DataError] = []
        for damaged, left in (("a", ["b", "c"]), ("c", ["b"])):
            (tmp_path / damaged / "summary.json").write_text("{")
            with pytest.raises(DataError):
                find_runs([tmp_path])
            runs, unfinished = find_runs([tmp_path], told.append)
            assert [run.name for run in runs] == left and unfinished == []
        assert len(told) == 3 and all("summary.json" in str(error) for error in told)
        (tmp_path / "b" / "summary.json").write_text("{")
        with pytest.raises(DataError, match=r"c.summary\.json"):  # nothing would be left
            find_runs([tmp_path], told.append)
        assert len(told) == 5

    def test_hidden_folders_are_passed_over(self, tmp_path: Path) -> None:
        write_run(tmp_path / ".trash" / "a", 0.5)
        write_run(tmp_path / "b", 0.5)
        assert [run.folder.name for run in find_runs([tmp_path])[0]] == ["b"]

    @pytest.mark.parametrize("name", ["summary.json", "config.json", "metrics.jsonl"])
    def test_one_file_makes_it_a_run(self, name: str, tmp_path: Path) -> None:
        write_run(tmp_path / "whole", 0.5)
        (tmp_path / "begun").mkdir()
        (tmp_path / "whole" / name).rename(tmp_path / "begun" / name)
        (tmp_path / "neither").mkdir()
        (tmp_path / "neither" / name).mkdir()
        found = {path.name for path in reader._run_folders(tmp_path, 2)}
        assert found == {"whole", "begun"}

    def test_a_folder_that_cannot_be_read_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(path: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", forbidden)
        with pytest.raises(DataError) as error:
            find_runs([tmp_path])
        assert str(error.value) == (
            f"expected the right to read a folder of runs; found {tmp_path}: Permission denied;"
            " give another"
        )

    def test_too_deep_is_not_found(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a" / "b" / "c" / "run", 0.5)
        with pytest.raises(DataError, match="folder of a finished run"):
            find_runs([tmp_path])

    def test_one_of_the_folders_without_a_run(self, sweep: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=f"{tmp_path}/empty without summary.json"):
            find_runs([sweep, tmp_path / "empty"])

    def test_only_unfinished_ones(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", None, finished=False)
        write_run(tmp_path / "sun", None, finished=False)
        with pytest.raises(DataError) as error:
            find_runs([tmp_path])
        assert str(error.value) == (
            "expected the folder of a finished run; found only unfinished ones:"
            f" {tmp_path}/run, {tmp_path}/sun;"
            " finish one: the same command resumes it"
        )

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 3, "student": "s", "alpha": 0}'])
    def test_a_summary_that_is_none(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (write_run(tmp_path / "run", 0.5) / "summary.json").write_text(text)
        assert "summary.json" in refused(main, capsys, "compare", tmp_path)

    def test_other_files_that_cannot_be_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name, text in (
            ("config.json", "[]"),
            ("metrics.jsonl", "3"),
            ("student.json", "{"),
            ("predictions.pt", "no"),
        ):
            folder = write_run(tmp_path / name, 0.5)
            (folder / name).write_text(text)
            assert name in refused(
                main, capsys, "compare", folder, "--html", tmp_path / "page.html"
            )

    @pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
    def test_what_was_edited_after_the_end_is_refused(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        digests = {
            "config_digest": config_digest(folder),
            "history_digest": history_digest(folder),
        }
        summary = json.loads((folder / "summary.json").read_text()) | digests
        (folder / "summary.json").write_text(json.dumps(with_digest(summary)))
        assert len(read_run(folder).history) == 3
        (folder / name).write_text((folder / name).read_text().replace("0.", "0.9", 1))
        expected = f"expected {folder / name} as it was when the run ended; found one that was"
        assert expected in refused(main, capsys, "compare", folder)
        if name == "config.json":
            assert expected in refused(main, capsys, "predict", folder, "x.png")
            assert expected in refused(main, capsys, "export", folder, "--format", "pt2")

    def test_numbers_are_those_that_were_written(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5)
        document = with_digest(json.loads((folder / "summary.json").read_text()))
        (folder / "summary.json").write_text(json.dumps(document | {"test_accuracy": 0.75}))
        with pytest.raises(DataError, match=r"run/summary\.json as .* found sha256: not that of"):
            read_summary(folder)

    def test_the_command_is_the_recorded_one_or_made_from_the_options(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5, alpha=0.9, temperature=2.0, seed=3)
        recorded = write_run(tmp_path / "b", 0.5) / "config.json"
        config = json.loads(recorded.read_text()) | {"command": "python train_student.py --alpha 0"}
        recorded.write_text(json.dumps(config))
        write_run(tmp_path / "c", 0.5)
        (write_run(tmp_path / "d", 0.5) / "config.json").unlink()
        (one, other, labels_only, nothing), _ = find_runs([tmp_path])
        expected = (
            "python train_student.py --seed 3 --alpha 0.9 --student resnet18 --epochs 3 --out"
            f" {tmp_path / 'a'}"
        )
        assert one.command == (expected, False)
        assert other.command == ("python train_student.py --alpha 0", True)
        assert "--alpha 0.0" in labels_only.command[0]
        assert nothing.command == ("python train_student.py", False)

    def test_a_command_made_from_the_options_gives_them_back(self, tmp_path: Path) -> None:
        options = TrainOptions(
            alpha=0.0,
            mean=(0.5, 0.25, 1e-3),
            lr=0.1,
            vis=True,
            out=tmp_path / "a b",
            limit=3,
            warmup=0.0,
        )
        out = write_run(tmp_path / "run", 0.5)
        (out / "config.json").write_text(json.dumps({"options": options.as_dict()}))
        words = shlex.split(find_runs([out])[0][0].command[0])
        assert words[:2] == ["python", "train_student.py"]
        assert parse_options(TrainOptions, words[2:], None) == options


class TestPredictions:
    def test_they_come_back(self, tmp_path: Path) -> None:
        logits = torch.tensor([[1000.0, 1000.0001, -1e9], [2.0, 1.0, 0.5]])
        save_predictions(tmp_path / "a.pt", torch.tensor([1, 0]), student=logits, teacher=None)
        read = read_predictions(tmp_path / "a.pt")
        assert read is not None and read.teacher is None and read.labels.tolist() == [1, 0]
        # float16 alone would take 1000 and 1000.0001 for equal
        assert read.student.argmax(1).tolist() == [1, 0]
        torch.testing.assert_close(read.student.softmax(1), logits.softmax(1), atol=1e-4, rtol=0)
        assert (tmp_path / "a.pt").stat().st_size < 4000

    def test_what_is_kept_is_the_distance_to_the_largest(self, tmp_path: Path) -> None:
        logits = torch.tensor([[3.0, 1.0, 2.5], [-100_000.0, 0.0, -0.25]])
        save_predictions(tmp_path / "a.pt", torch.tensor([2, 0]), student=logits, teacher=-logits)
        kept = torch.load(tmp_path / "a.pt", weights_only=True)
        assert {name: value.dtype for name, value in kept.items()} == {
            "labels": torch.int64, "student": torch.float16, "teacher": torch.float16
        }  # fmt: skip
        assert kept["student"].tolist() == [[0.0, -2.0, -0.5], [-65504.0, 0.0, -0.25]]
        assert kept["teacher"].tolist() == [[-2.0, 0.0, -1.5], [0.0, -65504.0, -65504.0]]
        read = read_predictions(tmp_path / "a.pt")
        assert read is not None and read.teacher is not None
        assert read.labels.tolist() == [2, 0]
        assert read.student.dtype == read.teacher.dtype == torch.float32
        assert torch.equal(read.teacher, kept["teacher"].float())

    def test_of_a_student_that_diverged(self, tmp_path: Path) -> None:
        nan, inf = float("nan"), float("inf")
        logits = torch.tensor([[nan] * 3, [inf, 0, -inf], [nan, 1, 2]])
        save_predictions(tmp_path / "a.pt", torch.tensor([1, 0, 2]), student=logits)
        read = read_predictions(tmp_path / "a.pt")
        assert read is not None
        assert read.student.tolist() == [
            [0.0] * 3, [0.0, -65504.0, -65504.0], [-65504.0, -1.0, 0.0]
        ]  # fmt: skip

    def test_of_one_class(self, tmp_path: Path) -> None:
        save_predictions(tmp_path / "a.pt", torch.tensor([2, 2]), student=torch.eye(3)[:2])
        read = read_predictions(tmp_path / "a.pt")
        assert read is not None and read.labels.tolist() == [2, 2]

    def test_files_that_do_not_fit(self, tmp_path: Path) -> None:
        good = {"labels": torch.tensor([0, 1]), "student": torch.zeros(2, 3)}
        assert read_predictions(tmp_path / "none.pt") is None
        changes = (
            {"labels": torch.tensor([0, 3])},
            {"student": torch.zeros(3, 3)},
            {"teacher": torch.zeros(2, 2)},
            {"labels": 3},
            {"student": None},
            {"labels": torch.tensor([-1, 0])},
            {"labels": torch.zeros(2, 1)},
            {"teacher": torch.zeros(2, 4)},
            {"teacher": torch.zeros(3, 3)},
            {"student": torch.zeros(2, 3, 1)},
        )
        for change in changes:
            torch.save(good | change, tmp_path / "a.pt")
            with pytest.raises(DataError, match=r"a\.pt as train_student") as error:
                read_predictions(tmp_path / "a.pt")
            assert error.value.remedy == "remove it or train anew"
            assert len(error.value.found) <= 200
            if "teacher" in change:
                assert "its labels and logits do not fit each other" in error.value.found

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.pt").write_bytes(b"PK")
        with pytest.raises(DataError) as error:
            read_predictions(tmp_path / "a.pt")
        assert f"{tmp_path}/a.pt as train_student.py writes it" in error.value.expected
        assert error.value.remedy == "remove it or train anew"

    def test_under_the_name_of_an_older_version(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "run", 0.5, alpha=0.5)
        (folder / "predictions.pt").rename(folder / "answers.pt")
        read = read_run(folder).predictions
        assert read is not None and read.teacher is not None
        assert len(read.labels) == IMAGES and read.student.shape == read.teacher.shape == (
            IMAGES,
            4,
        )
        (folder / "answers.pt").unlink()
        assert read_run(folder).predictions is None


@pytest.mark.skipif(not V01.exists(), reason="the runs of 0.1.0 are not in this checkout")
class TestRunsOfVersion01:
    def test_all_is_read(self) -> None:
        runs, unfinished = find_runs([V01])
        assert [run.name for run in runs] == ["finished", "labels"]
        assert {path.name for path in unfinished} == {"begun", "interrupted", "interrupted-labels"}
        for run in runs:
            summary = json.loads((run.folder / "summary.json").read_text())
            names = [
                "validation_class_accuracy",
                "test_class_accuracy",
                "config_digest",
                "history_digest",
                "unlabelled",
            ]
            new = dict.fromkeys(names)
            assert run.summary.to_json() == summary | new
            lines = (run.folder / "metrics.jsonl").read_text().splitlines()
            assert [epoch.to_json() for epoch in run.history] == [
                json.loads(line) for line in lines
            ]
            assert run.config is not None and run.config.options.epochs == len(run.history)
            assert run.command[1] and run.class_names[0] == "circle"
            assert run.predictions is not None
            right = run.predictions.student.argmax(1) == run.predictions.labels
            assert right.double().mean().item() == pytest.approx(run.summary.test_accuracy)

    def test_what_was_interrupted_has_its_options(self, tmp_path: Path) -> None:
        for name in ("interrupted", "interrupted-labels", "begun"):
            shutil.copytree(V01 / name, tmp_path / name)
            assert resumed_options(tmp_path / name).out == tmp_path / name
            assert len(read_history(tmp_path / name)) == (0 if name == "begun" else 5)
