"""Whether distilling helped, in words.

Where nothing was repeated with another seed, only the number of test images says how far an
accuracy can be trusted; where there are several seeds, the paired t-test does.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from kdcache.report.comparison.rows import Row
from kdcache.report.comparison.statistics import margin
from kdcache.report.tables import p_text, percent, points
from kdcache.runs import RunSummary

_SIGNIFICANT = 0.05


def words_on_single_runs(summaries: Sequence[RunSummary]) -> str:
    """Whether distilling helped, where nothing was repeated with another seed: one sentence.

    The noise is the half-width of the usual 95 % interval of a difference of two proportions,

        1.96 * sqrt(p (1 - p) / n + q (1 - q) / n),

    with p and q the mean test accuracies of the distilled and of the labels-only runs, on n test
    images. It is conservative: both kinds were tested on the same images, which makes their
    difference less noisy than that, and averaging several runs is not counted. It knows nothing of
    how much a run varies with its seed.
    """
    tested = [summary for summary in summaries if summary.test_accuracy is not None]
    trained = [
        {summary.student for summary in tested if summary.distilled == distilled}
        for distilled in (True, False)
    ]
    if of_both_kinds := trained[0] & trained[1]:
        # a student that was trained in one way only, such as a teacher's own run, says nothing here
        tested = [summary for summary in tested if summary.student in of_both_kinds]
    distilled, labels_only = _test_accuracies(tested, True), _test_accuracies(tested, False)
    if not labels_only or not distilled:
        kind = "labels-only" if distilled else "distilled" if labels_only else "finished"
        return f"Nothing to compare: there is no {kind} run with a test accuracy."
    images = tested[0].test_images
    if not images:
        return "Nothing to compare: the runs do not say how many test images there were."
    p, q = fmean(distilled), fmean(labels_only)
    noise = math.hypot(margin(p, images), margin(q, images))
    beyond = abs(p - q) > noise
    verdict = "Distilling helped" if p > q else "Distilling hurt"
    if not beyond:
        verdict = "No clear difference"
    students = sorted({summary.student for summary in tested})
    caveat = f"; mind that the students differ ({', '.join(students)})" if len(students) > 1 else ""
    return (
        f"{verdict}: test accuracy {percent(p)} %{_mean_of(distilled)} distilled and"
        f" {percent(q)} %{_mean_of(labels_only)} from labels only, a difference of {points(p - q)}"
        f" percentage points, {'beyond' if beyond else 'within'} the noise of"
        f" ±{percent(noise)} (95 %, {images:,} test images){caveat}."
    )


def _test_accuracies(summaries: Sequence[RunSummary], distilled: bool) -> list[float]:
    return [
        summary.test_accuracy
        for summary in summaries
        if summary.distilled == distilled and summary.test_accuracy is not None
    ]


def _mean_of(runs: Sequence[float]) -> str:
    return f" (mean of {len(runs)} runs)" if len(runs) > 1 else ""


def words_on_seeds(rows: Sequence[Row], test_images: int | None) -> str:
    """What the best distilled group gained over its baseline, in a sentence or two."""
    distilled = [row for row in rows if row.distilled and row.test_accuracy is not None]
    if not distilled or all(row.distilled for row in rows):
        kind = "labels-only" if distilled else "distilled"
        return f"Nothing to compare: there is no {kind} run with a test accuracy."
    best = max(distilled, key=lambda row: row.validation_accuracy)
    images = f" on {test_images:,} test images" if test_images else ""
    seeds = f"mean and standard deviation over {best.n} seeds" if best.n > 1 else "one seed"
    words = "Distilled"
    if len(distilled) > 1:
        words = f"Of the distilled rows the best by validation accuracy is {best.what}"
    words += f": {percent(best.test_accuracy, best.test_sd)} % accuracy{images} ({seeds})"
    if best.difference is None:
        return f"{words}; no difference is given: {best.why_no_p}."
    words += f"; {points(best.difference)} percentage points against {best.baseline}"
    if best.p is None:
        return f"{words}; how sure that is cannot be said: {best.why_no_p}."
    p = p_text(best.p)
    words += (
        f", 95 % interval {points(best.difference_low)} to {points(best.difference_high)},"
        f" p {p if best.p < 0.0001 else f'= {p}'}"
        f" (paired t-test over {best.shared_seeds} shared seeds)."
    )
    tests = sum(row.p is not None for row in distilled)
    if tests > 1:
        words += (
            f" Each p is of one comparison alone; with {tests} of them, look for p below"
            f" {_SIGNIFICANT / tests:.2g}."
        )
    return words
