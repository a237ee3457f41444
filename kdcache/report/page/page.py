"""Finished runs as one page of HTML: it opens offline, loads nothing and runs no script."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from torch import Tensor

from kdcache.report.comparison import Comparison, Group, Row, TeacherRow, best_of
from kdcache.report.page import prediction_sections, score_sections
from kdcache.report.page.score_sections import Section
from kdcache.report.page.svg import escape
from kdcache.report.tables import p_text, percent, points
from kdcache.runs import Run

# the browser's word that nothing is loaded
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NO_PREDICTIONS = (
    "Confusions, confidence and disagreements are not shown: these runs left no predictions.pt,"
    " which older versions did not write."
)
_COLUMNS = (
    "what",
    "test %",
    "difference",
    "p",
    "95 % interval",
    "validation %",
    "seeds",
    "seconds",
)


def render_page(comparison: Comparison, pixels: Tensor | str) -> str:
    """The whole page.

    Args:
        pixels: the test images, uint8 `(M, 3, H, W)`, or why there are none.
    """
    groups = comparison.groups
    title = _title(groups)
    runs = _runs(groups, comparison.unfinished)
    sections = [
        Section("Test accuracy", _remark_on_table(groups), _accuracy(comparison)),
        score_sections.learning(groups),
        score_sections.temperature_and_alpha(groups),
        score_sections.cost(groups),
        prediction_sections.confusions(groups),
        prediction_sections.calibration(groups),
        prediction_sections.agreement(groups),
        prediction_sections.images(groups, pixels),
        Section("Runs", "What was run, so that it can be run again.", runs),
    ]
    body = "\n".join(
        _section(number, section) for number, section in enumerate(sections) if section is not None
    )
    style = resources.files("kdcache.report.page").joinpath("style.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{_lede(comparison.words)}{_facts(groups)}</header>\n"
        f"{body}\n<footer>Made by <code>kdcache compare --html</code>.</footer>\n"
        "</main>\n</body>\n</html>"
    )


def _title(groups: Sequence[Group]) -> str:
    students = list(dict.fromkeys(group.student for group in groups))
    dataset = groups[0].runs[0].summary.dataset or "one dataset"
    who = students[0] if len(students) == 1 else f"{len(students)} students"
    how = "with and without" if best_of(groups, True) else "without"
    return f"{who} on {dataset}, {how} a teacher"


def _lede(words: str) -> str:
    """The words, with true minus signs, and broken where they may be broken."""
    for plain, typeset in (
        (" -", " −"),
        (" ± ", "\u00a0±\u00a0"),
        (" %", "\u00a0%"),
        ("t-test", "t\u2011test"),
    ):
        words = words.replace(plain, typeset)
    return f'<p class="lede">{escape(words)}</p>\n'


def _facts(groups: Sequence[Group]) -> str:
    """What the words above leave out."""
    runs = [run for group in groups for run in group.runs]
    facts = [
        f"{len(runs)} run{'s' * (len(runs) > 1)} in {len(groups)} group{'s' * (len(groups) > 1)}"
    ]
    if count := runs[0].summary.test_images:
        facts.append(f"{count:,} test images")
    teachers = {run.summary.teacher.name for run in runs if run.summary.teacher is not None}
    if teachers:
        facts.append(f"teacher {', '.join(sorted(teachers))}")
    html = f"<p>{escape('; '.join(facts))}.</p>\n"
    if all(run.predictions is None for run in runs):
        html += f'<p class="missing">{escape(_NO_PREDICTIONS)}</p>\n'
    return html


def _section(number: int, section: Section) -> str:
    return (
        f'<section aria-labelledby="section-{number}">\n<div class="aside">'
        f'<h2 id="section-{number}">{escape(section.title)}</h2>'
        f"<p>{escape(section.remark)}</p></div>\n<div>{section.body}</div>\n</section>"
    )


def _remark_on_table(groups: Sequence[Group]) -> str:
    remark = (
        "Runs that differ in nothing but their seed are one row: mean ± standard deviation over the"
        " seeds."
    )
    if best_of(groups, False) and best_of(groups, True):
        remark += (
            " Labels only is the baseline; differences are in percentage points, with their 95 %"
            " interval, and p is that of a paired t-test over the seeds that both rows share."
        )
    if any(group.best for group in groups):
        remark += " In bold, the best row by validation accuracy: the test images chose nothing."
    return remark


def _accuracy(comparison: Comparison) -> str:
    chart = score_sections.accuracies(comparison.groups, comparison.teachers)
    return f'<div class="sections">{chart}</div></div>\n<div class="across">{_table(comparison)}'


def _table(comparison: Comparison) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in _COLUMNS)
    lines = [_teacher_line(row) for row in comparison.teachers]
    lines += [_line(row) for row in comparison.rows]
    return (
        '<div class="scroll" role="region" aria-label="Table of all groups" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _teacher_line(row: TeacherRow) -> str:
    test, validation = percent(row.test_accuracy), percent(row.validation_accuracy)
    cells = [test, None, None, None, validation, None, None]
    return _table_line("teacher", row.label, "".join(map(_cell, cells)))


def _line(row: Row) -> str:
    low, high = _signed(row.difference_low), _signed(row.difference_high)
    cells = [
        _cell(percent(row.test_accuracy, row.test_sd)),
        _cell(_signed(row.difference) or (None if row.distilled else "0")),
        _cell(p_text(row.p)) if row.why_no_p is None else _cell(row.why_no_p, wordy=True),
        _cell(f"{low} to {high}" if low else None),
        _cell(percent(row.validation_accuracy, row.validation_sd)),
        _cell(row.n),
        _cell(None if row.seconds is None else f"{row.seconds:,.0f}"),
    ]
    kind, best = ("best", " (best)") if row.best else ("", "")
    return _table_line(kind, f"{row.what}{best}", "".join(cells))


def _table_line(kind: str, name: str, cells: str) -> str:
    return f'<tr class="{kind}"><th scope="row">{escape(name)}</th>{cells}</tr>'


def _cell(value: object, wordy: bool = False) -> str:
    kind = ' class="words"' if wordy else ""
    return f"<td{kind}>{escape('–' if value is None else value)}</td>"


def _signed(difference: float | None) -> str | None:
    """Percentage points with a minus sign as wide as the plus."""
    text = points(difference)
    return text and text.replace("-", "−")


def _runs(groups: Sequence[Group], unfinished: Sequence[Path]) -> str:
    """Scores, command and fingerprints of every run; what is the same for several is said once."""
    runs = [run for group in groups for run in group.runs]
    of_all: dict[str, str] = {}
    if len(runs) > 1:
        of_all = dict(set.intersection(*(set(_prints(run).items()) for run in runs)))
    body = f"<p>All runs: {_listed(of_all)}.</p>\n" if of_all else ""
    for group in groups:
        lines = "\n".join(_run(run, of_all) for run in group.runs)
        body += f'<h3>{escape(group.label)}</h3>\n<ul class="runs">{lines}</ul>\n'
    if unfinished:
        names = escape(", ".join(map(str, unfinished)))
        body += f'<p class="missing">Unfinished, and therefore left out: {names}.</p>'
    return f'<div class="prints">{body}</div>'


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


def _listed(prints: Mapping[str, str]) -> str:
    shown = []
    for name in sorted(prints):
        value = escape(prints[name])
        shown.append(f"{name} {value if name == 'command' else f'<code>{value}</code>'}")
    return "; ".join(shown)


def _run(run: Run, of_all: Mapping[str, str]) -> str:
    summary = run.summary
    facts = [f"seed {summary.seed}", f"validation {percent(summary.validation_accuracy)} %"]
    if summary.test_accuracy is not None:
        facts.append(f"test {percent(summary.test_accuracy)} %")
    if summary.seconds:
        facts.append(f"{summary.seconds:,.0f} s")
    own = {name: value for name, value in _prints(run).items() if name not in of_all}
    more = f"; {_listed(own)}" if own else ""
    return (
        f'<li><b>{escape(run.name)}</b> <span class="facts">{escape(", ".join(facts))}{more}</span>'
        f"<pre><code>{escape(run.command[0])}</code></pre></li>"
    )
