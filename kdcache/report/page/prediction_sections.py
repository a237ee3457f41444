"""What a page on finished runs shows of their predictions for the test images."""

import base64
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib import image as image_files
from torch import Tensor

from kdcache.distill import confusion, joint_outcomes, notable_images, reliability
from kdcache.report.comparison import Group, best_of
from kdcache.report.page import charts
from kdcache.report.page.score_sections import Section, figure, kind_of
from kdcache.report.page.svg import escape
from kdcache.runs import Predictions, Run

_MOST_CLASSES = 100  # of a confusion matrix
_MOST_NAMED = 5  # confusions under a matrix
_MOST_TILES = 24
_TILE_SIDE = 128  # pixels, of images that are larger
_PARTS = ("both", "student", "teacher", "mistake", "differing")


def pooled(
    group: Group, who: Literal["student", "teacher"] = "student"
) -> tuple[Tensor, Tensor] | None:
    """labels int64 `(n M,)` and logits `(n M, K)` of the group's n runs that left them.

    None where none did, or where their classes differ in number.
    """
    labels, logits = [], []
    for run in group.runs:
        rows = getattr(run.predictions, who, None)
        if run.predictions is not None and rows is not None:
            labels.append(run.predictions.labels)
            logits.append(rows)
    if len({rows.shape[1] for rows in logits}) != 1:
        return None
    return torch.cat(labels), torch.cat(logits)


def shown_pair(groups: Sequence[Group]) -> list[Group]:
    """The best labels-only and the best distilled group, of those that left predictions."""
    able = [group for group in groups if pooled(group) is not None]
    return [group for group in (best_of(able, False), best_of(able, True)) if group is not None]


def class_names(run: Run, classes: int) -> list[str]:
    names = list(run.class_names)
    return names if len(names) == classes else [f"class {number}" for number in range(classes)]


def confusions(groups: Sequence[Group]) -> Section | None:
    body = ""
    for group in shown_pair(groups):
        predictions = pooled(group)
        if predictions is not None and predictions[1].shape[1] <= _MOST_CLASSES:
            body += _confusion(group, *predictions)
    if not body:
        return None
    remark = (
        "Share of each label's test images, in percent, that got each prediction, over all seeds."
        " A row sums to 100."
    )
    return Section("Confusions", remark, f'<div class="sections">{body}</div>')


def _confusion(group: Group, labels: Tensor, logits: Tensor) -> str:
    counts = confusion(labels, logits).numpy()
    classes = len(counts)
    images = counts.sum(1, keepdims=True)
    fractions = np.divide(counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    texts = [[_percent_in_cell(fraction) for fraction in row] for row in fractions]
    names = class_names(group.runs[0], classes)
    worst = []
    for place in np.argsort(-fractions, axis=None, kind="stable"):
        label, prediction = divmod(int(place), classes)
        if label != prediction and len(worst) < _MOST_NAMED:
            fraction = fractions[label, prediction]
            worst.append(f"{names[label]} taken for {names[prediction]} {100 * fraction:.0f} %")
    words = "; ".join(worst)
    axes, spoken = ("label", "prediction"), f"Confusions, {group.label}: {words}"
    # the root makes a confusion of 1 % visible beside a diagonal of 90 %
    svg = charts.matrix(np.sqrt(fractions), texts, names, names, axes, spoken)
    return figure(svg, f"{group.label}. Most often: {words}.")


def _percent_in_cell(fraction: float) -> str:
    if not fraction > 0:
        return ""
    return "<1" if fraction < 0.005 else f"{100 * fraction:.0f}"


def calibration(groups: Sequence[Group]) -> Section | None:
    pair = shown_pair(groups)
    body = ""
    for group in pair:
        body += _reliability(group.label, kind_of(group, groups), pooled(group))
    teachers = [pooled(group, "teacher") for group in reversed(pair)]
    body += _reliability(
        "the teacher", "other", next((found for found in teachers if found is not None), None)
    )
    if not body:
        return None
    remark = (
        "Of the test images on which a network is 80 % confident, does it get 80 % right? Bars that"
        " end on the dashed line say yes; the upright strokes are the gaps, and their mean over the"
        " images is the expected calibration error (ECE, 15 bins). Beneath, how many images are in"
        " each bin."
    )
    return Section("Confidence", remark, f'<div class="sections">{body}</div>')


def _reliability(name: str, kind: str, predictions: tuple[Tensor, Tensor] | None) -> str:
    if predictions is None:
        return ""
    found = reliability(*predictions)
    words = f"{name}: expected calibration error {100 * found.calibration_error:.1f} %"
    arrays = (found.confidence.numpy(), found.accuracy.numpy(), found.counts.numpy())
    return figure(charts.diagram(*arrays, kind, f"Reliability of {words}"), f"{words}.")


def agreement(groups: Sequence[Group]) -> Section | None:
    bars = []
    for group in shown_pair(groups):
        ours, theirs = pooled(group), pooled(group, "teacher")
        if ours is not None and theirs is not None and ours[1].shape == theirs[1].shape:
            cases = joint_outcomes(ours[0], ours[1], theirs[1])
            same = cases["both right"] + cases["the same mistake"]
            bars.append((group.label, f"same prediction {100 * same:.1f} %", list(cases.items())))
    if not bars:
        return None
    keys = "".join(
        f'<li><span class="key {kind}"></span>{escape(name)}</li>'
        for (name, _), kind in zip(bars[0][2], _PARTS, strict=True)
    )
    spoken = "; ".join(
        f"{name}: {note}, "
        + ", ".join(f"{case} {100 * fraction:.1f} %" for case, fraction in fractions)
        for name, note, fractions in bars
    )
    svg = charts.stacked(bars, _PARTS, f"Student and teacher on the test images. {spoken}")
    remark = (
        "Whose predictions are right, and where both are wrong, whether they are wrong alike:"
        " mistakes can be distilled too."
    )
    body = f'<ul class="keys">{keys}</ul>' + figure(
        svg, "Shares of the test images in percent, over all seeds."
    )
    return Section("Student and teacher", remark, f'<div class="sections"><div>{body}</div></div>')


def images(groups: Sequence[Group], pixels: Tensor | str) -> Section | None:
    """Tiles of test images on which students disagree with each other, the teacher or the label.

    Args:
        pixels: uint8 `(M, 3, H, W)`, or why there are none.
    """
    runs = [_best_run(group) for group in shown_pair(groups)]
    if not runs:
        return None
    title = "Where they disagree"
    if isinstance(pixels, str):
        missing = f'<p class="missing">{escape(pixels)}</p>'
        return Section(title, "Test images with label and predictions.", missing)
    (run, shown), baseline = runs[-1], runs[0][1].student if len(runs) > 1 else None
    labels, names = shown.labels, class_names(run, shown.student.shape[1])
    kinds = notable_images(labels, shown.student, baseline, shown.teacher, _MOST_TILES)
    logits = {"teacher": shown.teacher, "labels only": baseline}
    logits |= {"distilled" if run.summary.distilled else "student": shown.student}
    predicted = {who: rows.argmax(1) for who, rows in logits.items() if rows is not None}
    body = ""
    for kind, rows, count in kinds:
        tiles = ""
        for row in rows.tolist():
            words = _predictions(predicted, row, labels, names)
            tiles += _tile(pixels[row], row, names[int(labels[row])], words)
        body += f"<h3>{escape(kind)} ({count:,} of {len(labels):,})</h3>"
        body += f'<div class="tiles">{tiles}</div>'
    whose = ", ".join(run.name for run, _ in runs)
    remark = (
        "Some of the test images of each kind, spread evenly over the split. Predictions of"
        f" {whose}; beneath each image its label."
    )
    return Section(title, remark, body)


def _best_run(group: Group) -> tuple[Run, Predictions]:
    """The run with the highest validation accuracy of those that left predictions: one at least."""
    held = [(run, run.predictions) for run in group.runs if run.predictions is not None]
    return max(held, key=lambda pair: pair[0].summary.validation_accuracy)


def _predictions(
    predicted: dict[str, Tensor], row: int, labels: Tensor, names: Sequence[str]
) -> str:
    lines = []
    for who, predictions in predicted.items():
        right = bool(predictions[row] == labels[row])
        mark = '<i class="right" role="img" aria-label="right">✓</i>' if right else (
            '<i class="wrong" role="img" aria-label="wrong">✗</i>'
        )  # fmt: skip
        lines.append(f"<span>{mark} {escape(who)}: {escape(names[int(predictions[row])])}</span>")
    return "".join(lines)


def _tile(pixels: Tensor, row: int, label: str, predictions: str) -> str:
    scale = _TILE_SIDE / max(pixels.shape[1:])
    if scale < 1:
        smaller = torch.nn.functional.interpolate(
            pixels[None].float(), scale_factor=scale, mode="bilinear", antialias=True
        )
        pixels = smaller[0].round().clamp(0, 255).byte()
    file = io.BytesIO()
    image_files.imsave(file, np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), format="png")
    data = base64.b64encode(file.getvalue()).decode()
    alt = escape(f"test image {row}, label {label}")
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{alt}"/>'
        f"<figcaption><b>{escape(label)}</b>{predictions}</figcaption></figure>"
    )
