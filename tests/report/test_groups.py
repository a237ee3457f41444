"""Finding runs, grouping them over seeds, and what a comparison writes."""

import csv
import json
import shlex
from pathlib import Path

import pytest
import torch
from commands import refused, run
from finished_runs import write_run, write_sweep

from kdcache.cli import main as tools
from kdcache.cli.parser import parse_options
from kdcache.config import TrainOptions
from kdcache.errors import KdcacheError
from kdcache.report.groups import best_of, check_comparable, group_runs, rows_of
from kdcache.runs import folder as checkpoint
from kdcache.runs.reader import find_runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "runs" / "sweep")


class TestFinding:
    def test_folders_of_runs_and_runs_are_found_once(self, sweep: Path) -> None:
        for folders in ([sweep], [sweep.parent], [sweep / "labels-0", sweep, sweep.parent]):
            runs, unfinished = find_runs(folders)
            assert len({run.folder.resolve() for run in runs}) == len(runs) == 15
            assert [path.name for path in unfinished] == ["late"]
        assert {run.name for run in runs} >= {"labels-0", "T2-a0.5-1"}

    def test_too_deep_is_not_found(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a" / "b" / "c" / "run", 0.5)
        with pytest.raises(KdcacheError, match="folder of a finished run"):
            find_runs([tmp_path])

    def test_only_unfinished_ones(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run", None, finished=False)
        with pytest.raises(KdcacheError, match="only unfinished ones"):
            find_runs([tmp_path])

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 3, "student": "s", "alpha": 0}'])
    def test_a_summary_that_is_none(
        self, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (write_run(tmp_path / "run", 0.5) / "summary.json").write_text(text)
        assert "summary.json" in refused(tools.main, capsys, "compare", tmp_path)

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
                tools.main, capsys, "compare", folder, "--html", tmp_path / "page.html"
            )

    def test_the_command_is_the_recorded_one_or_made_from_the_options(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5, alpha=0.5, seed=3)
        write_run(tmp_path / "b", 0.5, command="python train_student.py --alpha 0")
        write_run(tmp_path / "c", 0.5)
        (one, other, labels_only), _ = find_runs([tmp_path])
        expected = f"python train_student.py --seed 3 --student resnet18 --alpha 0.5 --epochs 3 --out {tmp_path / 'a'}"
        assert one.command == (expected, False)
        assert other.command == ("python train_student.py --alpha 0", True)
        assert "--alpha 0.0" in labels_only.command[0]

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


class TestGroups:
    def test_runs_that_differ_in_the_seed_only_are_one_row(self, sweep: Path) -> None:
        groups = group_runs(find_runs([sweep])[0])
        assert [(group.label, len(group.runs)) for group in groups] == [
            ("labels only", 3),
            ("distilled, T 2, alpha 0.5", 3),
            ("distilled, T 2, alpha 0.9", 3),
            ("distilled, T 4, alpha 0.5", 3),
            ("distilled, T 4, alpha 0.9", 3),
        ]
        assert [group.best for group in groups].count(True) == 1 and best_of(groups, True).best

    def test_a_row_by_hand(self, sweep: Path) -> None:
        groups = group_runs(find_runs([sweep])[0])
        (row,) = (row for row in rows_of(groups) if row["what"] == "distilled, T 2, alpha 0.5")
        # 0.61, 0.63, 0.65 against 0.50, 0.51, 0.52: differences 0.11, 0.12, 0.13, t = 0.12 / (0.01 / sqrt(3)) = 12 sqrt(3)
        assert row["test_accuracy"] == pytest.approx(0.63) and row["test_sd"] == pytest.approx(0.02)
        assert row["difference"] == pytest.approx(0.12)
        assert row["p"] == pytest.approx(1 - (432 / 434) ** 0.5, rel=1e-6)
        assert (row["n"], row["seeds"], row["shared_seeds"], row["baseline"]) == (
            3,
            [0, 1, 2],
            3,
            "labels only",
        )
        teacher = rows_of(groups)[0]
        assert (teacher["what"], teacher["test_accuracy"]) == ("teacher, probe", 0.89)

    def test_runs_of_one_seed_count_once(self, tmp_path: Path) -> None:
        for name, test, seed in (("a", 0.5, 0), ("b", 0.6, 0), ("c", 0.7, 1)):
            write_run(tmp_path / name, test, seed=seed)
        (group,) = group_runs(find_runs([tmp_path])[0])
        assert group.by_seed("test_accuracy") == pytest.approx({0: 0.55, 1: 0.7})
        assert group.best is False  # of one there is no best

    def test_temperature_is_no_matter_without_a_teacher(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5, temperature=1.0)
        write_run(tmp_path / "b", 0.5, temperature=4.0, seed=1)
        assert len(group_runs(find_runs([tmp_path])[0])) == 1

    def test_nor_is_where_the_images_lay(self, tmp_path: Path) -> None:
        for seed, stream in enumerate((False, True)):
            folder = write_run(tmp_path / f"{seed}", 0.5, seed=seed)
            config = json.loads((folder / "config.json").read_text())
            config["options"]["stream"] = stream
            (folder / "config.json").write_text(json.dumps(config))
        assert len(group_runs(find_runs([tmp_path])[0])) == 1

    def test_the_zero_line_is_of_the_same_student(self, tmp_path: Path) -> None:
        write_run(tmp_path / "labels", 0.5)
        write_run(tmp_path / "a", 0.6, alpha=0.5, student="resnet50")
        write_run(tmp_path / "b", 0.6, alpha=0.5)
        a, b = (group for group in group_runs(find_runs([tmp_path])[0]) if group.distilled)
        assert (a.student, a.zero, b.zero) == ("resnet50", None, "labels only, resnet18")
        assert b.versus_baseline.reason == "only 1 shared seed"

    def test_what_cannot_be_compared(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5)
        write_run(
            tmp_path / "b", 0.5, test_digest=None
        )  # of an older version: as many images of the same dataset
        check_comparable(find_runs([tmp_path])[0])
        write_run(tmp_path / "c", 0.5, test_digest="e" * 64)
        with pytest.raises(KdcacheError, match="same images as a"):
            check_comparable(find_runs([tmp_path])[0])


class TestCommand:
    def test_table_and_words(self, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(tools.main, "compare", sweep) == 0
        printed = capsys.readouterr().out
        assert "63.00 ± 2.00" in printed and "+12.00" in printed and "best by validation" in printed
        assert (
            "paired t-test over 3 shared seeds" in printed and "0.05" not in printed.split("\n")[0]
        )
        assert f"unfinished, left out: {sweep / 'late'}" in printed

    def test_csv_and_json_hold_the_rows_with_full_precision(
        self, sweep: Path, tmp_path: Path
    ) -> None:
        assert (
            run(
                tools.main,
                "compare",
                sweep,
                "--csv",
                tmp_path / "r.csv",
                "--json",
                tmp_path / "r.json",
            )
            == 0
        )
        rows = rows_of(group_runs(find_runs([sweep])[0]))
        written = json.loads((tmp_path / "r.json").read_text())
        assert (
            written["rows"] == rows
            and written["test_images"] == 40
            and written["unfinished"] == [str(sweep / "late")]
        )
        with open(tmp_path / "r.csv", newline="") as file:
            read = list(csv.DictReader(file))
        assert [line["what"] for line in read] == [row["what"] for row in rows]
        for line, row in zip(read, rows, strict=True):
            for key in ("test_accuracy", "difference", "p"):
                assert (float(line[key]) if line[key] else None) == row.get(key)
            assert line["runs"].split("; ") == row.get("runs", [""])

    def test_a_file_that_cannot_be_written(
        self, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no/r.csv" in refused(
            tools.main, capsys, "compare", sweep, "--csv", tmp_path / "no" / "r.csv"
        )


class TestAnswers:
    def test_they_come_back(self, tmp_path: Path) -> None:
        logits = torch.tensor([[1000.0, 1000.0001, -1e9], [2.0, 1.0, 0.5]])
        checkpoint.save_predictions(
            tmp_path / "a.pt", torch.tensor([1, 0]), student=logits, teacher=None
        )
        read = checkpoint.read_predictions(tmp_path / "a.pt")
        assert read.keys() == {"labels", "student"} and read["labels"].tolist() == [1, 0]
        assert read["student"].argmax(1).tolist() == [
            1,
            0,
        ]  # float16 alone would take 1000 and 1000.0001 for equal
        torch.testing.assert_close(read["student"].softmax(1), logits.softmax(1), atol=1e-4, rtol=0)
        assert (tmp_path / "a.pt").stat().st_size < 4000

    def test_of_a_student_that_diverged(self, tmp_path: Path) -> None:
        logits = torch.tensor([[float("nan")] * 3, [float("inf"), 0, float("-inf")]])
        checkpoint.save_predictions(tmp_path / "a.pt", torch.tensor([1, 0]), student=logits)
        read = checkpoint.read_predictions(tmp_path / "a.pt")["student"]
        assert read.isfinite().all() and read[1].argmax() == 0

    def test_files_that_do_not_fit(self, tmp_path: Path) -> None:
        good = {"labels": torch.tensor([0, 1]), "student": torch.zeros(2, 3)}
        assert checkpoint.read_predictions(tmp_path / "none.pt") is None
        for change in ({"labels": torch.tensor([0, 3])}, {"student": torch.zeros(3, 3)}, {"teacher": torch.zeros(2, 2)},
                       {"labels": 3}, {"student": None}):  # fmt: skip
            torch.save(good | change, tmp_path / "a.pt")
            with pytest.raises(KdcacheError, match=r"a\.pt as train_student"):
                checkpoint.read_predictions(tmp_path / "a.pt")


def test_how_many_views_and_whose_they_are_tell_groups_apart(tmp_path: Path) -> None:
    """Options and summary both have `views`: a number there, in words here."""
    for seed in (0, 1):
        for name, options, matching in (
            ("two", {"views": 2, "augment": "cached"}, "matched"),
            ("all", {"augment": "cached"}, "matched"),
            (
                "live",
                {"augment": "cached", "live_teacher": True, "teacher_weights": "t.pt"},
                "live",
            ),
            ("own", {"augment": "crop-flip"}, "unmatched"),
        ):
            folder = write_run(
                tmp_path / f"{name}-{seed}", 0.5, alpha=0.9, seed=seed, views=matching
            )
            config = json.loads((folder / "config.json").read_text())
            config["options"] |= options
            (folder / "config.json").write_text(json.dumps(config))
    groups = group_runs(find_runs([tmp_path])[0])
    assert [len(group.runs) for group in groups] == [2, 2, 2, 2]
    labels = sorted(group.label for group in groups)
    assert labels == [
        "distilled, augment cached, live teacher",
        "distilled, augment cached, matched views",
        "distilled, augment cached, views 2, matched views",
        "distilled, augment crop-flip, unmatched views",
    ]
