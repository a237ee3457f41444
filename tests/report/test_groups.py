"""Grouping runs over seeds, and what a comparison writes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from finished_runs import write_run, write_sweep

from kdcache.cli.main import main
from kdcache.errors import DataError
from kdcache.report.comparison import compare_runs
from kdcache.report.comparison.groups import Group, best_of, check_comparable, group_runs
from kdcache.report.comparison.rows import row_of
from kdcache.runs import find_runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "runs" / "sweep")


def grouped(folder: Path) -> list[Group]:
    return group_runs(find_runs([folder])[0])


def change_options(folder: Path, **changes: Any) -> None:
    """Write other options into a run's config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["options"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


class TestGroups:
    def test_runs_that_differ_in_the_seed_only_are_one_row(self, sweep: Path) -> None:
        groups = grouped(sweep)
        assert [(group.label, len(group.runs)) for group in groups] == [
            ("labels only", 3),
            ("distilled, T 2, alpha 0.5", 3),
            ("distilled, T 2, alpha 0.9", 3),
            ("distilled, T 4, alpha 0.5", 3),
            ("distilled, T 4, alpha 0.9", 3),
        ]
        best = best_of(groups, True)
        assert [group for group in groups if group.best] == [best]

    def test_a_row_by_hand(self, sweep: Path) -> None:
        found = compare_runs(find_runs([sweep])[0])
        (row,) = (row for row in found.rows if row.what == "distilled, T 2, alpha 0.5")
        # 0.61, 0.63, 0.65 against 0.50, 0.51, 0.52: differences 0.11, 0.12, 0.13, so that
        # t = 0.12 / (0.01 / sqrt(3)) = 12 sqrt(3)
        assert row.test_accuracy == pytest.approx(0.63) and row.test_sd == pytest.approx(0.02)
        assert row.difference == pytest.approx(0.12)
        assert row.p == pytest.approx(1 - (432 / 434) ** 0.5, rel=1e-6)
        assert (row.n, row.seeds, row.shared_seeds) == (3, [0, 1, 2], 3)
        assert row.baseline == "labels only"
        (teacher,) = found.teachers
        assert (teacher.what, teacher.test_accuracy) == ("teacher, probe", 0.89)

    def test_runs_of_one_seed_count_once(self, tmp_path: Path) -> None:
        for name, test, seed in (("a", 0.5, 0), ("b", 0.6, 0), ("c", 0.7, 1)):
            write_run(tmp_path / name, test, seed=seed)
        (group,) = grouped(tmp_path)
        assert group.by_seed("test_accuracy") == pytest.approx({0: 0.55, 1: 0.7})
        assert group.best is False  # of one there is no best

    def test_temperature_is_no_matter_without_a_teacher(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5, temperature=1.0)
        write_run(tmp_path / "b", 0.5, temperature=4.0, seed=1)
        assert len(grouped(tmp_path)) == 1

    def test_nor_is_the_loss(self, tmp_path: Path) -> None:
        for seed, loss in enumerate(("kl", "dkd")):
            change_options(write_run(tmp_path / loss, 0.5, seed=seed), loss=loss)
        assert len(grouped(tmp_path)) == 1

    def test_nor_is_an_option_that_an_older_version_did_not_have(self, tmp_path: Path) -> None:
        write_run(tmp_path / "new", 0.5)
        folder = write_run(tmp_path / "old", 0.5, seed=1)
        config = json.loads((folder / "config.json").read_text())
        del config["options"]["mix"]
        (folder / "config.json").write_text(json.dumps(config))
        assert len(grouped(tmp_path)) == 1

    def test_nor_is_where_the_images_lay(self, tmp_path: Path) -> None:
        for seed, stream in enumerate((False, True)):
            folder = write_run(tmp_path / f"{seed}", 0.5, seed=seed)
            change_options(folder, stream=stream)
        assert len(grouped(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("change", "label"),
        [
            ({"mix": "mixup"}, "labels only, mix mixup"),
            ({"limit": 100}, "labels only, limit 100"),
            ({"lr": 0.5}, "labels only, lr 0.5"),
            ({"student_weights": "/a/b.pt"}, "labels only, weights b.pt"),
        ],
    )
    def test_what_shapes_the_result_is(
        self, change: dict[str, Any], label: str, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "a", 0.5)
        change_options(write_run(tmp_path / "b", 0.5, seed=1), **change)
        labels = [group.label for group in grouped(tmp_path)]
        assert len(labels) == 2 and labels[1] == label

    def test_the_baseline_is_of_the_same_student(self, tmp_path: Path) -> None:
        write_run(tmp_path / "labels", 0.5)
        write_run(tmp_path / "a", 0.6, alpha=0.5, student="resnet50")
        write_run(tmp_path / "b", 0.6, alpha=0.5)
        a, b = (group for group in grouped(tmp_path) if group.distilled)
        assert (a.student, a.baseline, b.baseline) == ("resnet50", None, "labels only, resnet18")
        assert (row_of(a).why_no_p, row_of(b).why_no_p) == (
            "no labels-only run of this student",
            "only 1 shared seed",
        )

    def test_what_cannot_be_compared(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", 0.5)
        write_run(
            tmp_path / "b", 0.5, test_digest=None
        )  # of an older version: as many images of the same dataset
        check_comparable(find_runs([tmp_path])[0])
        write_run(tmp_path / "c", 0.5, test_digest="e" * 64)
        with pytest.raises(DataError, match="same images as a"):
            check_comparable(find_runs([tmp_path])[0])


class TestCommand:
    def test_table_and_words(self, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(main, "compare", sweep) == 0
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
                main,
                "compare",
                sweep,
                "--csv",
                tmp_path / "r.csv",
                "--json",
                tmp_path / "r.json",
            )
            == 0
        )
        rows = compare_runs(find_runs([sweep])[0]).to_json()["rows"]
        written = json.loads((tmp_path / "r.json").read_text())
        assert (
            written["rows"] == rows
            and written["test_images"] == 40
            and written["unfinished"] == [str(sweep / "late")]
        )
        with open(tmp_path / "r.csv", newline="") as file:
            read = list(csv.DictReader(file))
        by_class = {"validation_class_accuracy", "test_class_accuracy"}  # lists, in JSON alone
        assert list(read[0]) == [key for key in rows[-1] if key not in by_class]
        assert list(rows[0]) == ["what", "kind", "model", "validation_accuracy", "test_accuracy"]
        assert [line["what"] for line in read] == [row["what"] for row in rows]
        for line, row in zip(read, rows, strict=True):
            for key in ("test_accuracy", "difference", "p"):
                assert (float(line[key]) if line[key] else None) == row.get(key)
            assert line["runs"].split("; ") == row.get("runs", [""])

    def test_a_file_that_cannot_be_written(
        self, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no/r.csv" in refused(
            main, capsys, "compare", sweep, "--csv", tmp_path / "no" / "r.csv"
        )


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
            change_options(folder, **options)
    groups = grouped(tmp_path)
    assert [len(group.runs) for group in groups] == [2, 2, 2, 2]
    labels = sorted(group.label for group in groups)
    assert labels == [
        "distilled, augment cached, live teacher",
        "distilled, augment cached, matched views",
        "distilled, augment cached, views 2, matched views",
        "distilled, augment crop-flip, unmatched views",
    ]
