"""Tables, and the words under them, against constants worked out by hand."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refused, run
from finished_runs import write_run, write_sweep

from kdcache.cli import main as tools
from kdcache.report.comparison import Comparison, Row, TeacherRow, compare_runs
from kdcache.report.comparison.verdict import words_on_seeds, words_on_single_runs
from kdcache.report.tables import format_table, p_text
from kdcache.runs import RunSummary, TeacherScores, find_runs


def test_table_is_aligned():
    second = {"name": "longer\nname", "accuracy": None, "n": 1200, "note": True}
    rows = [{"name": "a", "accuracy": "71.30", "n": 5}, second]
    assert format_table(rows) == (
        "name         accuracy     n  note\n"
        "-----------  --------  ----  ----\n"
        "a               71.30     5  -\n"
        "longer name         -  1200  True"
    )
    assert format_table(rows, ["n", "name"]) == (
        "   n  name\n----  -----------\n   5  a\n1200  longer name"
    )


def test_table_of_floats_and_of_nothing():
    table = format_table([{"x": 0.1 + 0.2}, {"x": 12}, {"x": "1,000 %"}])
    assert table.split("\n")[2:] == ["    0.3", "     12", "1,000 %"]
    assert format_table([], ["a"]) == "a\n-"
    assert format_table([]) == ""


def summary(name: str, alpha: float, test: float | None, **changes: Any) -> RunSummary:
    teacher = TeacherScores("vit_b_16", 0.9, 0.89) if alpha else None
    made = RunSummary(
        name,
        "resnet18",
        alpha,
        0.71,
        test,
        test_images=4000,
        parameters=11,
        seconds=38.24,
        projection="probe" if alpha else None,
        teacher=teacher,
    )
    return replace(made, **changes)


LABELS = summary("runs/labels", 0.0, 0.7)


def compared(folder: Path) -> Comparison:
    return compare_runs(*find_runs([folder]))


def test_a_table_of_single_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "labels", 0.7)
    write_run(tmp_path / "one", 0.743, alpha=0.9)
    write_run(tmp_path / "two", None, alpha=0.5)
    shown = """
what                  model     run     validation %  test %  vs labels  seconds  note
--------------------  --------  ------  ------------  ------  ---------  -------  ------------------
teacher, probe        vit_b_16  -              90.00   89.00          -        -  -
labels only           resnet18  labels         60.00   70.00          -     30.0  -
distilled, alpha 0.9  resnet18  one            69.00   74.30      +4.30     39.0  best by validation
distilled, alpha 0.5  resnet18  two            65.00       -          -     35.0  -
"""
    assert compared(tmp_path).table() == shown.strip()


def test_a_table_of_one_run_has_what_is_known_of_it(tmp_path: Path) -> None:
    header, _, teacher, line = (
        compare_runs(*find_runs([write_run(tmp_path / "run", 0.7, alpha=0.9)])).table().split("\n")
    )
    assert header.split("  ")[0] == "what" and "note" not in header and "vs labels" not in header
    assert teacher.split()[:3] == ["teacher,", "probe", "vit_b_16"]
    assert line.split() == [
        "distilled",
        "resnet18",
        str(tmp_path / "run"),
        "69.00",
        "70.00",
        "39.0",
    ]


def test_a_table_of_several_seeds_and_students(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", 0.5 + 0.01 * seed, seed=seed)
        write_run(tmp_path / f"b{seed}", 0.61 + 0.02 * seed, seed=seed, alpha=0.5)
    write_run(tmp_path / "c", 0.5, alpha=0.5, student="resnet50")
    table = compared(tmp_path).table().split("\n")
    assert table[0].split("  ")[0] == "what" and " n " in table[0] and "run" not in table[0]
    best, none = ("36.0", "best by validation"), ("35.0", "no labels-only run of this student")
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table[3:]]
    assert cells == [
        ["labels only", "resnet18", "3", "61.00 ± 1.00", "51.00 ± 1.00", "-", "-", "31.0", "-"],
        ["distilled", "resnet18", "3", "66.00 ± 1.00", "63.00 ± 2.00", "+12.00", "0.002", *best],
        ["distilled", "resnet50", "1", "65.00", "50.00", "-", "-", *none],
    ]  # fmt: skip


def test_teachers_are_named_once_each(tmp_path: Path) -> None:
    other = {"name": "vit_b_16", "validation_accuracy": 0.9, "test_accuracy": 0.5}
    same = other | {"test_accuracy": 0.89}
    write_run(tmp_path / "labels", 0.5, teacher=same)
    write_run(tmp_path / "a", 0.7, alpha=0.9)
    write_run(tmp_path / "b", 0.7, alpha=1.0, teacher=other, projection="none")
    found = compared(tmp_path)
    assert found.teachers == (
        TeacherRow("teacher, probe", "vit_b_16", 0.9, 0.89),
        TeacherRow("teacher", "vit_b_16", 0.9, 0.5),
    )
    assert len(found.rows) == 3


def test_rows_for_the_chart(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "labels", 0.5)
    write_run(tmp_path / "runs" / "a", 0.7, alpha=0.9)
    single, seeds = compared(tmp_path), compared(write_sweep(tmp_path / "sweep"))
    assert [tuple(row.values()) for row in single.chart_rows()] == [
        ("teacher", "vit_b_16", "teacher, probe", "89.00"),
        ("labels", "resnet18", "labels only", "50.00"),
        ("a", "resnet18", "distilled", "70.00"),
    ]
    assert [row["name"] for row in seeds.chart_rows()][1:3] == [
        "labels only",
        "distilled, T 2, alpha 0.5",
    ]


def test_single_runs_are_compared_by_the_noise_of_the_test_images(tmp_path: Path) -> None:
    write_run(tmp_path / "labels", 0.5)
    write_run(tmp_path / "a", 0.7, alpha=0.9)
    assert (
        "a difference of +20.00 percentage points, within the noise of" in compared(tmp_path).words
    )
    write_run(tmp_path / "b", 0.7, alpha=0.9, seed=1)
    assert compared(tmp_path).words.startswith(
        "Distilled: 70.00 ± 0.00 % accuracy on 40 test images"
    )


def test_distilling_helped():
    # 1.96 * sqrt((0.8 * 0.2 + 0.5 * 0.5) / 4100) = 1.96 * sqrt(0.41 / 4100) = 1.96 * 0.01
    runs = [summary("l", 0.0, 0.5), summary("a", 0.9, 0.75), summary("b", 0.9, 0.85)]
    assert words_on_single_runs([replace(run, test_images=4100) for run in runs]) == (
        "Distilling helped: test accuracy 80.00 % (mean of 2 runs) distilled and 50.00 % from"
        " labels only, a difference of +30.00 percentage points, beyond the noise of ±1.96 (95 %,"
        " 4,100 test images)."
    )


def test_distilling_hurt_and_the_students_differ():
    # 1.96 * sqrt((0.36 * 0.64 + 0.64 * 0.36) / 1152) = 1.96 * sqrt(0.4608 / 1152) = 1.96 * 0.02
    runs = [summary("l", 0.0, 0.64), summary("a", 0.9, 0.36, student="resnet50")]
    assert words_on_single_runs([replace(run, test_images=1152) for run in runs]) == (
        "Distilling hurt: test accuracy 36.00 % distilled and 64.00 % from labels only, a"
        " difference of -28.00 percentage points, beyond the noise of ±3.92 (95 %, 1,152 test"
        " images); mind that the students differ (resnet18, resnet50)."
    )


@pytest.mark.parametrize(
    ("test", "verdict"),
    [(0.5, "No"), (0.5138, "No"), (0.5139, "Distilling helped"), (0.4861, "Distilling hurt")],
)
def test_noise_decides(test, verdict):
    # 1.96 * sqrt(2 * 0.5 * 0.5 / 10,000) = 0.01386
    runs = [summary("l", 0.0, 0.5, test_images=10_000), summary("a", 0.9, test, test_images=10_000)]
    sentence = words_on_single_runs(runs)
    assert sentence.startswith(verdict)
    assert ("within the noise of ±1.39" in sentence) == (verdict == "No")


def test_nothing_to_compare() -> None:
    one = summary("a", 0.9, 0.7)
    unknown = [replace(run, test_images=None) for run in (one, LABELS)]
    expected = {
        "there is no labels-only run with a test accuracy": [one],
        "there is no distilled run with a test accuracy": [LABELS, summary("b", 0.9, None)],
        "there is no finished run with a test accuracy": [],
        "the runs do not say how many test images there were": unknown,
    }
    for reason, summaries in expected.items():
        assert words_on_single_runs(summaries) == f"Nothing to compare: {reason}."


def test_a_student_that_was_trained_in_one_way_only_does_not_count() -> None:
    teacher = summary("teacher", 0.0, 0.99, student="resnet50")
    runs = [LABELS, summary("a", 0.9, 0.8)]
    assert words_on_single_runs([*runs, teacher]) == words_on_single_runs(runs)


def row(what: str, kind: str, **changes: Any) -> Row:
    made = Row(
        what=what,
        kind=kind,
        model="resnet18",
        parameters=11,
        alpha=0.9,
        temperature=4.0,
        n=3,
        seeds=[0, 1, 2],
        validation_accuracy=0.7,
        validation_sd=0.01,
        test_accuracy=0.6,
        test_sd=0.0123,
        best=False,
        baseline="labels only",
        shared_seeds=3,
        difference=None,
        difference_low=None,
        difference_high=None,
        p=None,
        why_no_p=None,
        seconds=12.34,
        fingerprint=None,
        runs=[],
    )
    return replace(made, **changes)


BASELINE = row("labels only", "labels only", best=True)
GAIN = {"difference": 0.05, "difference_low": 0.01, "difference_high": 0.09, "p": 0.0321}


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, None), (1e-9, "< 0.0001"), (0.000123, "0.0001"), (0.0499, "0.050"), (0.567, "0.57")],
)
def test_p_as_text(p, text):
    assert p_text(p) == text


def test_words_on_groups():
    assert words_on_seeds([BASELINE, row("distilled", "distilled", **GAIN)], 4000) == (
        "Distilled: 60.00 ± 1.23 % accuracy on 4,000 test images (mean and standard deviation over"
        " 3 seeds); +5.00 percentage points against labels only, 95 % interval +1.00 to +9.00,"
        " p = 0.032 (paired t-test over 3 shared seeds)."
    )
    several = [
        row(f"distilled, T {t}", "distilled", validation_accuracy=0.7 + t / 100, **GAIN)
        for t in (1, 2)
    ]
    words = words_on_seeds([BASELINE, *several], None)
    assert words.startswith(
        "Of the distilled rows the best by validation accuracy is distilled, T 2: 60.00"
    )
    assert words.endswith(
        "Each p is of one comparison alone; with 2 of them, look for p below 0.025."
    )


def test_words_where_there_is_no_p():
    single = row(
        "distilled", "distilled", n=1, test_sd=None, difference=0.05, why_no_p="only 1 shared seed"
    )
    assert words_on_seeds([BASELINE, single], None) == (
        "Distilled: 60.00 % accuracy (one seed); +5.00 percentage points against labels only; how"
        " sure that is cannot be said: only 1 shared seed."
    )
    assert "there is no labels-only run" in words_on_seeds([single], None)
    assert "there is no distilled run" in words_on_seeds([BASELINE], None)


def test_the_table_and_the_words_need_neither_torch_nor_matplotlib(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from kdcache.report import compare_runs; from kdcache.runs import find_runs;"
        "found = compare_runs(*find_runs([Path(sys.argv[1])]));"
        "found.table(), found.to_csv(), found.to_json();"
        "print(found.words, *sorted({'torch', 'matplotlib', 'h5py'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(write_sweep(tmp_path / "sweep"))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.endswith("look for p below 0.013.\n")


class TestOddRuns:
    """One odd run among many is named and left out, and the exit code says so."""

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("summary.json", "{"),
            ("config.json", "[]"),
            ("metrics.jsonl", "?"),
            ("predictions.pt", "PK"),
        ],
    )
    def test_one_that_cannot_be_read(
        self, name: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_sweep(tmp_path / "sweep")
        (tmp_path / "sweep" / "T2-a0.5-1" / name).write_text(content)
        page = tmp_path / "page.html"
        assert run(tools.main, "compare", tmp_path / "sweep", "--html", page) == 1
        shown = capsys.readouterr()
        (line,) = (line for line in shown.err.splitlines() if line.startswith("left out: "))
        assert f"T2-a0.5-1/{name}" in line
        assert "distilled, T 2, alpha 0.5" in shown.out and "labels only" in shown.out
        assert page.exists()

    def test_one_of_other_test_images(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_run(tmp_path / "sweep" / "a-first", 0.987, test_digest="e" * 64)
        write_sweep(tmp_path / "sweep")
        assert run(tools.main, "compare", tmp_path / "sweep") == 1
        shown = capsys.readouterr()
        assert f"left out: {tmp_path}/sweep/a-first, tested on other images than" in shown.err
        assert "98.70" not in shown.out

    def test_where_all_are_odd_it_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_run(tmp_path / "one", 0.9)
        (folder / "summary.json").write_text("{")
        assert "one/summary.json" in refused(tools.main, capsys, "compare", folder)
        write_run(tmp_path / "two", 0.9)
        write_run(tmp_path / "three", 0.9, test_digest="e" * 64)
        arguments = ["compare", tmp_path / "two", tmp_path / "three"]
        assert "compare runs of one dataset" in refused(tools.main, capsys, *arguments)
