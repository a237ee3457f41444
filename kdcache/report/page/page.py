"""Finished runs as one page of HTML: it opens offline and loads nothing.

The content is put together here; templates, style sheet and script are files beside this module.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs
from torch import Tensor

from kdcache.report.comparison import Comparison, Group, Row, TeacherRow, best_of, varied_options
from kdcache.report.page import prediction_charts, score_charts
from kdcache.report.page.charts import Section
from kdcache.report.page.dataset_images import disagreements
from kdcache.report.tables import p_text, percent, points
from kdcache.runs import Run

_PACKAGE = "kdcache.report.page"
_NO_PREDICTIONS = (
    "Classes, confidence and disagreements are not shown: these runs left no predictions.pt,"
    " which older versions did not write."
)
_COLUMNS = (
    "what",
    "test %",
    "difference",
    "95 % interval",
    "p",
    "validation %",
    "seeds",
    "seconds",
    "note",
)


def render_page(comparison: Comparison, pixels: Tensor | str) -> str:
    """The whole page.

    Args:
        pixels: the test images, uint8 `(M, 3, H, W)`, or why there are none.
    """
    groups = comparison.groups
    sections = [section for section in _sections(comparison, pixels) if section is not None]
    charts = [chart for section in sections for chart in section.charts]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_function"] = _to_json
    scripts = [get_plotlyjs(), _file("page.js")]
    hashes = " ".join(map(_hash, scripts))
    # the browser's word that nothing is loaded and that no other script runs; Plotly has to set
    # styles of its own
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    )
    text = environment.get_template("page.html").render(
        policy=policy,
        style=Markup(_file("style.css")),
        scripts=map(Markup, scripts),
        title=_title(groups),
        words=_typeset(comparison.words),
        facts=_facts(groups),
        sections=sections,
        data={
            "charts": [chart.figure for chart in charts],
            "groups": [_filtered_by(group, groups) for group in groups],
        },
    )
    return text.encode("utf-8", "replace").decode()  # a path may hold what UTF-8 does not


def _file(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _to_json(value: Any, **_: Any) -> str:
    return str(to_json_plotly(value))


def _sections(comparison: Comparison, pixels: Tensor | str) -> list[Section | None]:
    groups = comparison.groups
    words = {
        "Learning": "Measured after each epoch. Click a name in a legend to hide or show it, drag"
        " to zoom, double-click to zoom out.",
        "Options": "What the distilled groups vary in, and what came of it.",
        "Cost": "Seconds are those of the machine that trained, with whatever else it did.",
        "Classes": "From the predictions for the test images, over all runs of a group.",
        "Confidence": "Whether a network knows how sure it may be.",
        "Agreement": "Whose predictions are right, and where both are wrong, whether they are wrong"
        " alike: mistakes can be distilled too.",
    }
    charts = {
        "Learning": score_charts.learning(groups),
        "Options": score_charts.options(groups),
        "Cost": score_charts.cost(groups),
        "Classes": prediction_charts.classes(groups) + prediction_charts.confusions(groups),
        "Confidence": prediction_charts.calibration(groups),
        "Agreement": prediction_charts.agreement(groups),
    }
    return [
        _results(comparison),
        *(Section(title, words[title], found) for title, found in charts.items() if found),
        disagreements(groups, pixels),
        _hyper_parameters(groups),
        _runs(comparison),
    ]


def _title(groups: Sequence[Group]) -> str:
    students = list(dict.fromkeys(group.student for group in groups))
    dataset = groups[0].runs[0].summary.dataset or "one dataset"
    who = students[0] if len(students) == 1 else f"{len(students)} students"
    how = "with and without" if best_of(groups, True) else "without"
    return f"{who} on {dataset}, {how} a teacher"


def _typeset(words: str) -> str:
    """With true minus signs, and broken where they may be broken."""
    for plain, typeset in ((" -", " −"), (" ± ", "\u00a0±\u00a0"), (" %", "\u00a0%")):
        words = words.replace(plain, typeset)
    return words


def _facts(groups: Sequence[Group]) -> list[str]:
    """What the words leave out."""
    runs = [run for group in groups for run in group.runs]
    facts = f"{_count(len(runs), 'run')} in {_count(len(groups), 'group')}"
    if count := runs[0].summary.test_images:
        facts += f"; {count:,} test images"
    teachers = {run.summary.teacher.name for run in runs if run.summary.teacher is not None}
    if teachers:
        facts += f"; teacher {', '.join(sorted(teachers))}"
    missing = all(run.predictions is None for run in runs)
    return [f"{facts}.", *[_NO_PREDICTIONS] * missing]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _filtered_by(group: Group, groups: Sequence[Group]) -> dict[str, str | None]:
    """What the page's filters know of a group: the options in which groups differ."""
    shown: dict[str, str | None] = {}
    if len({group.distilled for group in groups}) > 1:
        shown["kind"] = "distilled" if group.distilled else "labels only"
    for key in varied_options([one for one in groups if one.distilled] or groups):
        value = group.setting.get(key) if group.distilled or not best_of(groups, True) else None
        shown[key.replace("_", " ")] = None if value is None else str(value)
    return shown


def _results(comparison: Comparison) -> Section:
    groups = comparison.groups
    remark = "Click a heading to sort."
    if not comparison.single:
        remark += (
            " Runs that differ in nothing but their seed are one row: mean ± standard deviation"
            " over the seeds."
        )
    if best_of(groups, False) and best_of(groups, True):
        remark += " Differences from labels only are in percentage points"
        remark += (
            "."
            if comparison.single
            else ", with their 95 % interval; p is that of a paired t-test over the seeds that both"
            " rows share."
        )
    if any(group.best for group in groups):
        remark += " In bold, the best row by validation accuracy: the test images chose nothing."
    lines = [(None, "teacher", _teacher_cells(row)) for row in comparison.teachers]
    for number, row in enumerate(comparison.rows):
        lines.append((number, "best" * row.best, _cells(row, comparison.single)))
    columns = [
        place
        for place in range(len(_COLUMNS))
        if any(cells[place][0] is not None for *_, cells in lines)
    ]
    rows = [(number, kind, [cells[place] for place in columns]) for number, kind, cells in lines]
    content = {
        "columns": [_COLUMNS[place] for place in columns],
        "rows": rows,
        "filters": _filters(groups),
    }
    charts = score_charts.accuracies(groups, comparison.teachers)
    return Section("Results", remark, charts, "results.html", content)


def _filters(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The values to choose from, by option."""
    if len(groups) < 2:
        return {}
    found: dict[str, list[str]] = {}
    for group in groups:
        for key, value in _filtered_by(group, groups).items():
            values = found.setdefault(key, [])
            if value is not None and value not in values:
                values.append(value)
    return {key: values for key, values in found.items() if len(values) > 1}


Cell = tuple[str | None, float | None]
"""What a cell says, and by what number it is sorted; None where it is empty or text."""


def _teacher_cells(row: TeacherRow) -> list[Cell]:
    cells: dict[str, Cell] = {
        "what": (row.label, None),
        "test %": (percent(row.test_accuracy), row.test_accuracy),
        "validation %": (percent(row.validation_accuracy), row.validation_accuracy),
    }
    return [cells.get(column, (None, None)) for column in _COLUMNS]


def _cells(row: Row, single: bool) -> list[Cell]:
    low, high = _signed(row.difference_low), _signed(row.difference_high)
    cells: dict[str, Cell] = {
        "what": (row.what, None),
        "test %": (percent(row.test_accuracy, row.test_sd), row.test_accuracy),
        "difference": (_signed(row.difference), row.difference),
        "95 % interval": (f"{low} to {high}" if low else None, row.difference_low),
        "p": (p_text(row.p), row.p),
        "validation %": (percent(row.validation_accuracy, row.validation_sd),
                         row.validation_accuracy),
        "seeds": (None if single else str(row.n), row.n),
        "seconds": (None if row.seconds is None else f"{row.seconds:,.0f}", row.seconds),
        "note": (None if single else row.why_no_p, None),
    }  # fmt: skip
    return [cells[column] for column in _COLUMNS]


def _signed(difference: float | None) -> str | None:
    """Percentage points with a minus sign as wide as the plus."""
    text = points(difference)
    return text and text.replace("-", "−")


def _hyper_parameters(groups: Sequence[Group]) -> Section:
    """Every option that shapes a result, by group; those in which groups differ come first."""
    varied = varied_options(groups)
    keys = [*varied, *sorted({key for group in groups for key in group.setting} - {*varied})]
    rows: list[tuple[str, bool, list[str]]] = []
    for key in keys:
        values = [group.setting.get(key) for group in groups]
        texts = ["–" if value is None else str(value) for value in values]
        rows.append((key.replace("_", " "), key in varied, texts))
    labels = [(group.label, group.best) for group in groups]
    content = {
        "labels": labels,
        "varied": [row for row in rows if row[1]],
        "same": [(name, texts[0]) for name, is_varied, texts in rows if not is_varied],
    }
    remark = "The options that shape a result, with all defaults filled in."
    return Section("Hyper-parameters", remark, template="settings.html", content=content)


def _runs(comparison: Comparison) -> Section:
    """Scores, command and fingerprints of every run; what is the same for several is said once."""
    runs = [run for group in comparison.groups for run in group.runs]
    of_all: dict[str, str] = {}
    if len(runs) > 1:
        of_all = dict(set.intersection(*(set(_prints(run).items()) for run in runs)))
    groups = [
        (group.label, [_run(run, of_all) for run in group.runs]) for group in comparison.groups
    ]
    unfinished = ", ".join(map(str, comparison.unfinished))
    content = {"of_all": sorted(of_all.items()), "groups": groups, "unfinished": unfinished}
    remark = "What was run, so that it can be run again."
    return Section("Runs", remark, template="runs.html", content=content)


def _prints(run: Run) -> dict[str, str]:
    """What a run was made from and with, as far as it is known."""
    found = {
        "cache": run.summary.fingerprint,
        "test images": run.summary.test_digest,
        "software": run.config and run.config.software,
    }
    if not run.command[1]:
        found["command"] = "not recorded: put together from the options, without the defaults"
    return {name: value for name, value in found.items() if value}


def _run(run: Run, of_all: Mapping[str, str]) -> dict[str, Any]:
    summary = run.summary
    facts = [f"seed {summary.seed}", f"validation {percent(summary.validation_accuracy)} %"]
    if summary.test_accuracy is not None:
        facts.append(f"test {percent(summary.test_accuracy)} %")
    if summary.seconds:
        facts.append(f"{summary.seconds:,.0f} s")
    own = sorted((name, value) for name, value in _prints(run).items() if name not in of_all)
    return {"name": run.name, "facts": ", ".join(facts), "own": own, "command": run.command[0]}
