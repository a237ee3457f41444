"""Finished runs side by side: a row for each group, the teachers, and whether distilling helped.

A single run is a group of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.report.comparison.groups import Group, check_comparable, group_runs
from kdcache.report.comparison.rows import Row, TeacherRow, row_of, teachers_of
from kdcache.report.comparison.verdict import words_on_seeds, words_on_single_runs
from kdcache.report.tables import as_csv, format_table, p_text, percent, points
from kdcache.runs import Run

_COLUMNS = (
    "what",
    "model",
    "run",
    "n",
    "validation %",
    "test %",
    "vs labels",
    "p",
    "seconds",
    "note",
)


@dataclass(frozen=True)
class Comparison:
    """Finished runs, compared: a row a group.

    `words` says what came out, in a sentence or two; `unfinished` are folders that
    were passed over.
    """

    groups: tuple[Group, ...]
    teachers: tuple[TeacherRow, ...]
    rows: tuple[Row, ...]
    words: str
    unfinished: tuple[Path, ...] = ()

    @property
    def single(self) -> bool:
        """Whether every group is one run."""
        return all(len(group.runs) == 1 for group in self.groups)

    def table(self) -> str:
        """For a terminal: the teachers, then a line a group; empty columns are omitted."""
        lines = [_teacher_cells(row) for row in self.teachers]
        for group, row in zip(self.groups, self.rows, strict=True):
            lines.append(_cells(row, group.runs[0].name if self.single else None))
        shown = [key for key in _COLUMNS if any(line.get(key) is not None for line in lines)]
        return format_table(lines, shown)

    def chart_rows(self) -> list[dict[str, object]]:
        """What `comparison_chart` draws: name, model, kind and test accuracy in percent."""
        named: list[tuple[str, str, Row | TeacherRow]] = []
        for row in self.teachers:
            named.append(("teacher", row.what, row))
        for group, row in zip(self.groups, self.rows, strict=True):
            named.append((group.runs[0].name if self.single else row.what, row.kind, row))
        return [
            {"name": name, "model": row.model, "kind": kind, "test %": percent(row.test_accuracy)}
            for name, kind, row in named
        ]

    def to_csv(self) -> str:
        """The teachers and the groups with full precision, a line each."""
        rows = self._json_rows()
        for row in rows:  # a thousand classes are no cell
            for key in ("validation_class_accuracy", "test_class_accuracy"):
                row.pop(key, None)
        return as_csv(rows)

    def to_json(self) -> dict[str, Any]:
        """The same and the words, JSON-ready."""
        summary = self.groups[0].runs[0].summary
        return {
            "dataset": summary.dataset,
            "test_images": summary.test_images,
            "test_digest": summary.test_digest,
            "class_names": list(self.groups[0].runs[0].class_names),
            "rows": self._json_rows(),
            "words": self.words,
            "unfinished": [str(folder) for folder in self.unfinished],
        }

    def _json_rows(self) -> list[dict[str, Any]]:
        return [row.to_json() for row in (*self.teachers, *self.rows)]


def compare_runs(runs: Sequence[Run], unfinished: Sequence[Path] = ()) -> Comparison:
    """Compare what `find_runs` found, which is at least one run.

    Raises DataError where they were tested on different images.
    """
    check_comparable(runs)
    groups = group_runs(runs)
    rows = [row_of(group) for group in groups]
    if len(groups) == len(runs):
        words = words_on_single_runs([run.summary for run in runs])
    else:
        words = words_on_seeds(rows, runs[0].summary.test_images)
    return Comparison(tuple(groups), teachers_of(runs), tuple(rows), words, tuple(unfinished))


def _teacher_cells(row: TeacherRow) -> dict[str, object]:
    return {
        "what": row.what,
        "model": row.model,
        "validation %": percent(row.validation_accuracy),
        "test %": percent(row.test_accuracy),
    }


def _cells(row: Row, run: str | None) -> dict[str, object]:
    """A row as text: accuracies in percent, differences in percentage points.

    Args:
        run: the name of the only run; None where there are groups of several.
    """
    notes = []
    if row.best:
        notes.append("best by validation")
    if row.why_no_p and run is None:  # of single runs there never is one
        notes.append(row.why_no_p)
    return {
        "what": row.what.removesuffix(f", {row.model}"),
        "model": row.model,
        "run": run,
        "n": row.n if run is None else None,
        "validation %": percent(row.validation_accuracy, row.validation_sd),
        "test %": percent(row.test_accuracy, row.test_sd),
        "vs labels": points(row.difference),
        "p": p_text(row.p),
        "seconds": None if row.seconds is None else f"{row.seconds:.1f}",
        "note": ", ".join(notes) or None,
    }
