"""Finished runs side by side: a table for the terminal, and in words whether distilling helped.

`comparison` is for single runs; the functions after it show the rows of `groups.rows_of`, which know of seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_NORMAL_95 = 1.96


def comparison(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, object]], str]:
    """What the runs' summaries (the dict of each summary.json) say side by side, and whether distilling helped.

    The noise is the half-width of the usual 95 % interval of a difference of two proportions,

        1.96 * sqrt(p (1 - p) / n + q (1 - q) / n),

    with p and q the mean test accuracies of the distilled and of the labels-only runs, on n test images. It is
    conservative: both kinds were tested on the same images, which makes their difference less noisy than that,
    and averaging several runs is not counted. It knows nothing of how much a run varies with its seed.

    Returns:
        rows: name, model, kind, validation % and test % (text with two decimals), seconds (text); the teacher first,
            then the runs in their order.
        verdict: one sentence.
    """
    rows = _teacher_rows(summaries)
    for summary in summaries:
        kind = "labels only" if _labels_only(summary) else "distilled"
        seconds = f"{summary['seconds']:.1f}" if summary.get("seconds") is not None else None
        rows.append(_row(summary["name"], summary["student"], kind, summary, seconds))
    return rows, _verdict_on_distilling(summaries)


def _labels_only(summary: Mapping[str, Any]) -> bool:
    return summary["alpha"] == 0


def _teacher_rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """One row for each teacher that the runs had, which is one as long as they share a cache and a projection."""
    rows: dict[tuple, dict[str, object]] = {}
    for summary in sorted(summaries, key=lambda summary: summary.get("projection") is None):
        if teacher := summary.get("teacher"):
            projection = summary.get("projection")
            kind = "teacher" if projection in (None, "none") else f"teacher, {projection}"
            row = _row("teacher", teacher["name"], kind, teacher, None)
            rows.setdefault((row["model"], row["validation %"], row["test %"]), row)
    return list(rows.values())


def _row(
    name: str, model: str, kind: str, scores: Mapping[str, Any], seconds: str | None
) -> dict[str, object]:
    found = (scores.get(key) for key in ("validation_accuracy", "test_accuracy"))
    validation, test = (None if share is None else f"{100 * share:.2f}" for share in found)
    return {
        "name": name,
        "model": model,
        "kind": kind,
        "validation %": validation,
        "test %": test,
        "seconds": seconds,
    }


def _verdict_on_distilling(summaries: Sequence[Mapping[str, Any]]) -> str:
    tested = [summary for summary in summaries if summary.get("test_accuracy") is not None]
    of_both_kinds = set.intersection(
        *({s["student"] for s in tested if _labels_only(s) == kind} for kind in (True, False))
    )
    if (
        of_both_kinds
    ):  # a student that was trained in one way only, such as a teacher's own run, says nothing here
        tested = [summary for summary in tested if summary["student"] in of_both_kinds]
    labels_only = [summary["test_accuracy"] for summary in tested if _labels_only(summary)]
    distilled = [summary["test_accuracy"] for summary in tested if not _labels_only(summary)]
    if not labels_only or not distilled:
        kind = "labels-only" if distilled else "distilled" if labels_only else "finished"
        return f"Nothing to compare: there is no {kind} run with a test accuracy."
    sizes = sorted({summary["test_images"] for summary in tested})
    if len(sizes) > 1:
        return f"Nothing to compare: the runs have different test images ({' and '.join(map(str, sizes))} of them)."
    p, q, n = float(np.mean(distilled)), float(np.mean(labels_only)), sizes[0]
    noise = _NORMAL_95 * math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    beyond = abs(p - q) > noise
    verdict = (
        "No clear difference" if not beyond else "Distilling helped" if p > q else "Distilling hurt"
    )
    students = sorted({summary["student"] for summary in tested})
    caveat = f"; mind that the students differ ({', '.join(students)})" if len(students) > 1 else ""
    return (
        f"{verdict}: test accuracy {100 * p:.2f} %{_mean_of(distilled)} distilled and {100 * q:.2f} %"
        f"{_mean_of(labels_only)} from labels only, a difference of {100 * (p - q):+.2f} percentage points, "
        f"{'beyond' if beyond else 'within'} the noise of ±{100 * noise:.2f} (95 %, {n:,} test images){caveat}."
    )


def _mean_of(runs: Sequence[float]) -> str:
    return f" (mean of {len(runs)} runs)" if len(runs) > 1 else ""


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """The rows of `groups.rows_of` as text for `format_table`: shares in percent, differences in percentage points."""
    shown = []
    for row in rows:
        notes = [
            note
            for note in ("best by validation" if row.get("best") else None, row.get("why_no_p"))
            if note
        ]
        shown.append(
            {
                "what": named(row),
                "n": row.get("n"),
                "validation %": with_spread(row["validation_accuracy"], row.get("validation_sd")),
                "test %": with_spread(row["test_accuracy"], row.get("test_sd")),
                "vs labels": points(row.get("difference")),
                "p": p_text(row.get("p")),
                "seconds": None if row.get("seconds") is None else f"{row['seconds']:.1f}",
                "note": ", ".join(notes) or None,
            }
        )
    return shown


def named(row: Mapping[str, Any]) -> str:
    """What a row of `groups.rows_of` is; of a teacher also which one."""
    return f"{row['what']}: {row['model']}" if row["kind"] == "teacher" else str(row["what"])


def with_spread(share: float | None, deviation: float | None) -> str | None:
    """'80.43 ± 0.93' percent."""
    if share is None:
        return None
    return f"{100 * share:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def points(difference: float | None) -> str | None:
    """'+5.25' percentage points."""
    return None if difference is None else f"{100 * difference:+.2f}"


def p_text(p: float | None) -> str | None:
    if p is None:
        return None
    return (
        "< 0.0001"
        if p < 0.0001
        else f"{p:.4f}"
        if p < 0.001
        else f"{p:.3f}"
        if p < 0.1
        else f"{p:.2f}"
    )


def grouped_words(rows: Sequence[Mapping[str, Any]], test_images: int | None) -> str:
    """What the best distilled row of `groups.rows_of` gained over its zero line, in a sentence or two."""
    distilled = [
        row for row in rows if row["kind"] == "distilled" and row["test_accuracy"] is not None
    ]
    if not distilled or all(row["kind"] != "labels only" for row in rows):
        return f"Nothing to compare: there is no {'labels-only' if distilled else 'distilled'} run with a test accuracy."
    best = max(distilled, key=lambda row: row["validation_accuracy"])
    images = f" of {test_images:,} test images" if test_images else ""
    several = len(distilled) > 1
    words = (
        f"Of the distilled rows the best by validation accuracy is {best['what']}: "
        if several
        else "Distilled: "
    )
    words += f"{with_spread(best['test_accuracy'], best['test_sd'])} %{images} right"
    words += (
        f" (mean and standard deviation over {best['n']} seeds)" if best["n"] > 1 else " (one seed)"
    )
    if best["difference"] is None:
        return f"{words}; no difference is given: {best['why_no_p']}."
    words += f"; {points(best['difference'])} percentage points against {best['baseline']}"
    if best["p"] is None:
        return f"{words}; how sure that is cannot be said: {best['why_no_p']}."
    low, high = points(best["difference_low"]), points(best["difference_high"])
    words += f", 95 % interval {low} to {high}, p {_equals(best['p'])} (paired t-test over {best['shared_seeds']} shared seeds)."
    tests = sum(row["p"] is not None for row in distilled)
    if tests > 1:
        words += f" Each p is of one comparison alone; with {tests} of them, look for p below {0.05 / tests:.2g}."
    return words


def _equals(p: float) -> str:
    text = str(p_text(p))
    return text if text.startswith("<") else f"= {text}"
