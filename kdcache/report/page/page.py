"""Finished runs as one page of HTML: opens offline, loads nothing, runs no script, reads on a phone and on paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kdcache.report.comparison import named, p_text, points, with_spread
from kdcache.report.groups import Group, best_of
from kdcache.report.page import prediction_sections as answer_exhibits
from kdcache.report.page import score_sections as score_exhibits
from kdcache.report.page.score_sections import Section
from kdcache.report.page.stylesheet import STYLE
from kdcache.report.page.svg import escape
from kdcache.runs import Run

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser's word that nothing is loaded
_NO_PREDICTIONS = "Confusions, confidence and disagreements are not shown: these runs left no predictions.pt, which older versions did not write."


def page(
    groups: Sequence[Group],
    rows: Sequence[Mapping[str, Any]],
    words: str,
    unfinished: Sequence[object],
    pixels: Tensor | str,
) -> str:
    """The whole page.

    Args:
        groups: of `groups.group_runs`, at least one.
        rows: of `groups.rows_of`.
        words: what the rows say, in a sentence or two.
        unfinished: folders that were passed over.
        pixels: the test images, uint8 `(M, 3, H, W)`, or why there are none.
    """
    title = _title(groups)
    sections = [
        Section("Test accuracy", _remark_on_table(groups), _accuracy(groups, rows)),
        score_exhibits.learning(groups),
        score_exhibits.temperature_and_alpha(groups),
        score_exhibits.cost(groups),
        answer_exhibits.confusions(groups),
        answer_exhibits.calibration(groups),
        answer_exhibits.agreement(groups),
        answer_exhibits.images(groups, pixels),
        Section("Runs", "What was run, so that it can be run again.", _runs(groups, unfinished)),
    ]
    sections = "\n".join(
        _section(number, section) for number, section in enumerate(sections) if section is not None
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{_lede(words)}{_facts(groups)}</header>\n"
        f"{sections}\n<footer>Made by <code>python -m kdcache compare --html</code>.</footer>\n</main>\n</body>\n</html>"
    )


def _title(groups: Sequence[Group]) -> str:
    students = list(dict.fromkeys(group.student for group in groups))
    dataset = groups[0].runs[0].summary.get("dataset", "one dataset")
    who = students[0] if len(students) == 1 else f"{len(students)} students"
    return f"{who} on {dataset}, {'with and without' if best_of(groups, True) else 'without'} a teacher"


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
    if count := runs[0].summary.get("test_images"):
        facts.append(f"{count:,} test images")
    teachers = {
        run.summary["teacher"]["name"]
        for run in runs
        if (run.summary.get("teacher") or {}).get("name")
    }
    if teachers:
        facts.append(f"taught by {', '.join(sorted(teachers))}")
    facts = [f"<p>{escape('; '.join(facts))}.</p>\n"]
    if all(run.predictions is None for run in runs):
        facts.append(f'<p class="missing">{escape(_NO_PREDICTIONS)}</p>\n')
    return "".join(facts)


def _section(number: int, section: Section) -> str:
    return (
        f'<section aria-labelledby="section-{number}">\n<div class="aside">'
        f'<h2 id="section-{number}">{escape(section.title)}</h2>'
        f"<p>{escape(section.remark)}</p></div>\n<div>{section.body}</div>\n</section>"
    )


def _remark_on_table(groups: Sequence[Group]) -> str:
    remark = "Runs that differ in nothing but their seed are one row: mean ± standard deviation over the seeds."
    if best_of(groups, False) and best_of(groups, True):
        remark += (
            " Labels only is the zero line; differences are in percentage points, with their 95 % interval, and p is that of"
            " a paired t-test over the seeds that both rows share."
        )
    if any(group.best for group in groups):
        remark += " In bold, the best row by validation accuracy: the test images chose nothing."
    return remark


def _accuracy(groups: Sequence[Group], rows: Sequence[Mapping[str, Any]]) -> str:
    teachers = [row for row in rows if row["kind"] == "teacher"]
    chart = score_exhibits.accuracies(groups, teachers)
    return f'<div class="sections">{chart}</div></div>\n<div class="across">{_table(rows)}'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        "what",
        "test %",
        "difference",
        "p",
        "95 % interval",
        "validation %",
        "seeds",
        "seconds",
    ]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = []
    for row in rows:
        difference, low, high = (
            _signed(row.get(key)) for key in ("difference", "difference_low", "difference_high")
        )
        cells = [
            with_spread(row["test_accuracy"], row.get("test_sd")),
            difference or ("0" if row["kind"] == "labels only" else None),
            p_text(row.get("p")) or row.get("why_no_p"),
            f"{low} to {high}" if low else None,
            with_spread(row["validation_accuracy"], row.get("validation_sd")),
            row.get("n"),
            None if row.get("seconds") is None else f"{row['seconds']:,.0f}",
        ]
        kind = "best" if row.get("best") else "teacher" if row["kind"] == "teacher" else ""
        best = " (best)" if row.get("best") else ""
        data = "".join(
            _cell(cell, cell is not None and cell == row.get("why_no_p")) for cell in cells
        )
        lines.append(
            f'<tr class="{kind}"><th scope="row">{escape(named(row))}{best}</th>{data}</tr>'
        )
    return (
        '<div class="scroll" role="region" aria-label="Table of all groups" tabindex="0"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _cell(value: object, wordy: bool) -> str:
    kind = ' class="words"' if wordy else ""
    return f"<td{kind}>{escape('–' if value is None else value)}</td>"


def _signed(difference: float | None) -> str | None:
    """Percentage points with a minus sign as wide as the plus."""
    text = points(difference)
    return text and text.replace("-", "−")


def _runs(groups: Sequence[Group], unfinished: Sequence[object]) -> str:
    """Scores, command and fingerprints of every run; what is the same for several is said once."""
    runs = [run for group in groups for run in group.runs]
    of_all = (
        dict(set.intersection(*(set(_prints(run).items()) for run in runs)))
        if len(runs) > 1
        else {}
    )
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
        "cache": run.summary.get("fingerprint"),
        "test images": run.summary.get("test_digest"),
        "software": run.config.get("software"),
        "command": None
        if run.command[1]
        else "not recorded: put together from the options, without the defaults",
    }
    return {name: str(value) for name, value in found.items() if value}


def _listed(prints: Mapping[str, str]) -> str:
    shown = {
        name: escape(value) if name == "command" else f"<code>{escape(value)}</code>"
        for name, value in prints.items()
    }
    return "; ".join(f"{name} {shown[name]}" for name in sorted(shown))


def _run(run: Run, of_all: Mapping[str, str]) -> str:
    scores = {
        "validation": run.summary.get("validation_accuracy"),
        "test": run.summary.get("test_accuracy"),
    }
    facts = [
        f"seed {run.seed}",
        *(f"{name} {100 * value:.2f} %" for name, value in scores.items() if value is not None),
    ]
    if seconds := run.summary.get("seconds"):
        facts.append(f"{seconds:,.0f} s")
    own = {name: value for name, value in _prints(run).items() if name not in of_all}
    more = f"; {_listed(own)}" if own else ""
    return (
        f'<li><b>{escape(run.name)}</b> <span class="facts">{escape(", ".join(facts))}{more}</span>'
        f"<pre><code>{escape(run.command[0])}</code></pre></li>"
    )
