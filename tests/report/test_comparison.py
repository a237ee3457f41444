"""The table of runs and the sentence under it, against constants worked out by hand."""

import pytest

from kdcache.report import comparison as subject


def test_table_is_aligned():
    second = {"name": "longer\nname", "accuracy": None, "n": 1200, "note": True}
    rows = [{"name": "a", "accuracy": "71.30", "n": 5}, second]
    assert subject.format_table(rows) == (
        "name         accuracy     n  note\n"
        "-----------  --------  ----  ----\n"
        "a               71.30     5  -\n"
        "longer name         -  1200  True"
    )
    assert subject.format_table(rows, ["n", "name"]) == (
        "   n  name\n----  -----------\n   5  a\n1200  longer name"
    )


def test_table_of_floats_and_of_nothing():
    table = subject.format_table([{"x": 0.1 + 0.2}, {"x": 12}, {"x": "1,000 %"}])
    assert table.split("\n")[2:] == ["    0.3", "     12", "1,000 %"]
    assert subject.format_table([], ["a"]) == "a\n-"
    assert subject.format_table([]) == ""


def summary(name: str, alpha: float, test: float | None, **changes) -> dict:
    teacher = {"name": "vit_b_16", "validation_accuracy": 0.9, "test_accuracy": 0.89}
    return {
        "name": name, "student": "resnet18", "alpha": alpha, "projection": "probe" if alpha else None, "parameters": 11,
        "validation_accuracy": 0.71, "test_accuracy": test, "test_images": 4000, "seconds": 38.24,
        "teacher": teacher if alpha else None, **changes,
    }  # fmt: skip


LABELS = summary("runs/labels", 0.0, 0.7)


def test_comparison_rows():
    rows, _ = subject.comparison(
        [LABELS, summary("runs/one", 0.9, 0.743), summary("runs/two", 0.5, None)]
    )
    keys = ("name", "model", "kind", "validation %", "test %", "seconds")
    assert [tuple(row) for row in rows] == [keys] * 4
    assert [tuple(row.values()) for row in rows] == [
        ("teacher", "vit_b_16", "teacher, probe", "90.00", "89.00", None),
        ("runs/labels", "resnet18", "labels only", "71.00", "70.00", "38.2"),
        ("runs/one", "resnet18", "distilled", "71.00", "74.30", "38.2"),
        ("runs/two", "resnet18", "distilled", "71.00", None, "38.2"),
    ]


def test_teachers_are_named_once_each():
    other = {"name": "vit_b_16", "validation_accuracy": 0.9, "test_accuracy": 0.5}
    labels = LABELS | {"teacher": summary("", 1, 0)["teacher"]}
    direct = summary("b", 1, 0.7, teacher=other, projection="none")
    rows, _ = subject.comparison([labels, summary("a", 0.9, 0.7), direct])
    assert [(row["kind"], row["test %"]) for row in rows[:2]] == [
        ("teacher, probe", "89.00"),
        ("teacher", "50.00"),
    ]
    assert len(rows) == 5


def test_distilling_helped():
    # 1.96 * sqrt((0.8 * 0.2 + 0.5 * 0.5) / 4100) = 1.96 * sqrt(0.41 / 4100) = 1.96 * 0.01
    runs = [summary("l", 0.0, 0.5), summary("a", 0.9, 0.75), summary("b", 0.9, 0.85)]
    assert subject.comparison([run | {"test_images": 4100} for run in runs])[1] == (
        "Distilling helped: test accuracy 80.00 % (mean of 2 runs) distilled and 50.00 % from labels only, "
        "a difference of +30.00 percentage points, beyond the noise of ±1.96 (95 %, 4,100 test images)."
    )


def test_distilling_hurt_and_the_students_differ():
    # 1.96 * sqrt((0.36 * 0.64 + 0.64 * 0.36) / 1152) = 1.96 * sqrt(0.4608 / 1152) = 1.96 * 0.02
    runs = [summary("l", 0.0, 0.64), summary("a", 0.9, 0.36, student="resnet50")]
    assert subject.comparison([run | {"test_images": 1152} for run in runs])[1] == (
        "Distilling hurt: test accuracy 36.00 % distilled and 64.00 % from labels only, a difference of -28.00 "
        "percentage points, beyond the noise of ±3.92 (95 %, 1,152 test images); mind that the students differ "
        "(resnet18, resnet50)."
    )


@pytest.mark.parametrize(
    ("test", "verdict"),
    [(0.5, "No"), (0.5138, "No"), (0.5139, "Distilling helped"), (0.4861, "Distilling hurt")],
)
def test_noise_decides(test, verdict):
    # 1.96 * sqrt(2 * 0.5 * 0.5 / 10,000) = 0.01386
    runs = [summary("l", 0.0, 0.5, test_images=10_000), summary("a", 0.9, test, test_images=10_000)]
    sentence = subject.comparison(runs)[1]
    assert sentence.startswith(verdict)
    assert ("within the noise of ±1.39" in sentence) == (verdict == "No")


def test_nothing_to_compare():
    one = summary("a", 0.9, 0.7)
    expected = {
        "there is no labels-only run with a test accuracy": [one],
        "there is no distilled run with a test accuracy": [LABELS, summary("b", 0.9, None)],
        "there is no finished run with a test accuracy": [],
        "the runs have different test images (100 and 4000 of them)": [
            LABELS,
            one | {"test_images": 100},
        ],
    }
    for reason, summaries in expected.items():
        assert subject.comparison(summaries)[1] == f"Nothing to compare: {reason}."


def test_a_student_that_was_trained_in_one_way_only_does_not_count():
    teacher = summary("teacher", 0.0, 0.99, student="resnet50")
    runs = [LABELS, summary("a", 0.9, 0.8)]
    assert subject.comparison([*runs, teacher])[1] == subject.comparison(runs)[1]


def row(what: str, kind: str, **changes) -> dict:
    return {
        "what": what, "kind": kind, "model": "resnet18", "n": 3, "validation_accuracy": 0.7, "validation_sd": 0.01,
        "test_accuracy": 0.6, "test_sd": 0.0123, "best": False, "baseline": "labels only", "shared_seeds": 3,
        "difference": None, "difference_low": None, "difference_high": None, "p": None, "why_no_p": None, "seconds": 12.34,
        **changes,
    }  # fmt: skip


ZERO = row("labels only", "labels only", best=True)
GAIN = {"difference": 0.05, "difference_low": 0.01, "difference_high": 0.09, "p": 0.0321}


def test_rows_of_groups_as_text():
    teacher = {
        "what": "teacher",
        "kind": "teacher",
        "model": "vit",
        "validation_accuracy": 0.9,
        "test_accuracy": None,
    }
    shown = subject.shown_rows([teacher, ZERO, row("distilled", "distilled", **GAIN)])
    assert list(shown[1].values()) == [
        "labels only",
        3,
        "70.00 ± 1.00",
        "60.00 ± 1.23",
        None,
        None,
        "12.3",
        "best by validation",
    ]
    assert list(shown[2].values()) == [
        "distilled",
        3,
        "70.00 ± 1.00",
        "60.00 ± 1.23",
        "+5.00",
        "0.032",
        "12.3",
        None,
    ]
    assert (shown[0]["what"], shown[0]["validation %"], shown[0]["test %"], shown[0]["n"]) == (
        "teacher: vit",
        "90.00",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("p", "text"),
    [(None, None), (1e-9, "< 0.0001"), (0.000123, "0.0001"), (0.0499, "0.050"), (0.567, "0.57")],
)
def test_p_as_text(p, text):
    assert subject.p_text(p) == text


def test_words_on_groups():
    assert subject.grouped_words([ZERO, row("distilled", "distilled", **GAIN)], 4000) == (
        "Distilled: 60.00 ± 1.23 % of 4,000 test images right (mean and standard deviation over 3 seeds); +5.00 percentage "
        "points against labels only, 95 % interval +1.00 to +9.00, p = 0.032 (paired t-test over 3 shared seeds)."
    )
    several = [
        row(f"distilled, T {t}", "distilled", validation_accuracy=0.7 + t / 100, **GAIN)
        for t in (1, 2)
    ]
    words = subject.grouped_words([ZERO, *several], None)
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
    assert subject.grouped_words([ZERO, single], None) == (
        "Distilled: 60.00 % right (one seed); +5.00 percentage points against labels only; how sure that is cannot be said: "
        "only 1 shared seed."
    )
    assert "there is no labels-only run" in subject.grouped_words([single], None)
    assert "there is no distilled run" in subject.grouped_words([ZERO], None)
