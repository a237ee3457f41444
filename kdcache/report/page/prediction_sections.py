"""What a page on finished runs shows of their predictions to the test images; runs of older versions left none."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import image as image_files
from torch import Tensor

from kdcache.distill import metrics as outcomes
from kdcache.report.groups import Group, best_of
from kdcache.report.page import charts
from kdcache.report.page.score_sections import Section, figure, kind_of
from kdcache.report.page.svg import escape
from kdcache.runs import Run

_MOST_CLASSES = 100  # of a confusion matrix
_MOST_TILES = 24
_TILE_SIDE = 128  # pixels, of images that are larger
_PARTS = ("both", "student", "teacher", "mistake", "differing")


def pooled(group: Group, who: str = "student") -> tuple[Tensor, Tensor] | None:
    """labels int64 `(n M,)` and logits `(n M, K)` of all the group's runs that left them; None where none did."""
    held = [
        run.predictions
        for run in group.runs
        if run.predictions is not None and who in run.predictions
    ]
    if not held or len({predictions[who].shape[1] for predictions in held}) > 1:
        return None
    return torch.cat([predictions["labels"] for predictions in held]), torch.cat(
        [predictions[who] for predictions in held]
    )


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
        labels, logits = pooled(group)
        counts = outcomes.confusion(labels, logits).numpy()
        classes = len(counts)
        if classes > _MOST_CLASSES:
            continue
        images = counts.sum(1, keepdims=True)
        shares = np.divide(counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
        texts = [
            [
                ("<1" if share < 0.005 else f"{100 * share:.0f}") if share > 0 else ""
                for share in row
            ]
            for row in shares
        ]
        names = class_names(group.runs[0], classes)
        order = [
            place
            for place in np.argsort(-shares, axis=None, kind="stable")
            if place // classes != place % classes
        ]
        worst = "; ".join(
            f"{names[place // classes]} taken for {names[place % classes]} {100 * shares.flat[place]:.0f} %"
            for place in order[:5]
        )
        # the root makes a confusion of 1 % visible beside a diagonal of 90 %
        svg = charts.matrix(
            np.sqrt(shares),
            texts,
            names,
            names,
            ("label", "answer"),
            f"Confusions, {group.label}: {worst}",
        )
        body += figure(svg, f"{group.label}. Most often: {worst}.")
    if not body:
        return None
    remark = "Share of each label's test images, in percent, that got each answer, over all seeds. A row sums to 100."
    return Section("Confusions", remark, f'<div class="sections">{body}</div>')


def calibration(groups: Sequence[Group]) -> Section | None:
    pair = shown_pair(groups)
    shown = [(group.label, kind_of(group, groups), pooled(group)) for group in pair]
    taught = next(
        (
            predictions
            for group in reversed(pair)
            if (predictions := pooled(group, "teacher")) is not None
        ),
        None,
    )
    body = ""
    for name, kind, predictions in [
        *shown,
        *([("the teacher", "other", taught)] if taught else []),
    ]:
        found = outcomes.reliability(*predictions)
        words = f"{name}: expected calibration error {100 * found.calibration_error:.1f} %"
        arrays = (found.confidence.numpy(), found.accuracy.numpy(), found.counts.numpy())
        body += figure(charts.diagram(*arrays, kind, f"Reliability of {words}"), f"{words}.")
    if not body:
        return None
    remark = (
        "Of the test images of which a network says it is 80 % sure, are 80 % right? Bars that end on the dashed line say yes;"
        " the upright strokes are the gaps, and their mean over the images is the expected calibration error (ECE, 15 bins)."
        " Beneath, how many images are in each bin."
    )
    return Section("Confidence", remark, f'<div class="sections">{body}</div>')


def agreement(groups: Sequence[Group]) -> Section | None:
    bars = []
    for group in shown_pair(groups):
        ours, theirs = pooled(group), pooled(group, "teacher")
        if theirs is not None and ours[1].shape == theirs[1].shape:
            cases = outcomes.joint_outcomes(ours[0], ours[1], theirs[1])
            same = cases["both right"] + cases["the same mistake"]
            bars.append((group.label, f"same answer {100 * same:.1f} %", list(cases.items())))
    if not bars:
        return None
    keys = "".join(
        f'<li><span class="key {kind}"></span>{escape(name)}</li>'
        for (name, _), kind in zip(bars[0][2], _PARTS, strict=True)
    )
    spoken = "; ".join(
        f"{name}: {note}, " + ", ".join(f"{case} {100 * share:.1f} %" for case, share in shares)
        for name, note, shares in bars
    )
    svg = charts.stacked(bars, _PARTS, f"Student and teacher on the test images. {spoken}")
    remark = "Whose predictions are right, and where both are wrong, whether they are wrong alike: mistakes can be taught too."
    body = f'<ul class="keys">{keys}</ul>' + figure(
        svg, "Shares of the test images in percent, over all seeds."
    )
    return Section("Student and teacher", remark, f'<div class="sections"><div>{body}</div></div>')


def images(groups: Sequence[Group], pixels: Tensor | str) -> Section | None:
    """Tiles of test images on which students disagree with each other, with the teacher or with the label.

    Args:
        pixels: uint8 `(M, 3, H, W)`, or why there are none.
    """
    runs = [
        max((run for run in group.runs if run.predictions), key=_validation)
        for group in shown_pair(groups)
    ]
    if not runs:
        return None
    title = "Where they disagree"
    if isinstance(pixels, str):
        return Section(
            title,
            "Test images with label and predictions.",
            f'<p class="missing">{escape(pixels)}</p>',
        )
    shown, zero = runs[-1], runs[0] if len(runs) > 1 else None
    labels, logits = shown.predictions["labels"], shown.predictions["student"]
    taught = shown.predictions.get("teacher")
    kinds = outcomes.notable_images(
        labels, logits, zero.predictions["student"] if zero else None, taught, _MOST_TILES
    )
    predictions = {"teacher": taught, "labels only": zero.predictions["student"] if zero else None}
    predictions |= {"distilled" if shown.distilled else "student": logits}
    said = {who: rows.argmax(1) for who, rows in predictions.items() if rows is not None}
    names = class_names(shown, logits.shape[1])
    body = ""
    for name, rows, count in kinds:
        tiles = "".join(
            _tile(pixels[row], row, names[labels[row]], _said(said, row, labels, names))
            for row in rows.tolist()
        )
        body += (
            f"<h3>{escape(name)} ({count:,} of {len(labels):,})</h3>"
            + f'<div class="tiles">{tiles}</div>'
        )
    remark = f"Some of the test images of each kind, spread evenly over the split. Answers of {', '.join(r.name for r in runs)}"
    return Section(title, f"{remark}; beneath each image its label.", body)


def _validation(run: Run) -> float:
    return run.summary["validation_accuracy"]


def _said(said: dict[str, Tensor], row: int, labels: Tensor, names: Sequence[str]) -> str:
    lines = []
    for who, predictions in said.items():
        right = bool(predictions[row] == labels[row])
        mark = '<i class="right" role="img" aria-label="right">✓</i>' if right else (
            '<i class="wrong" role="img" aria-label="wrong">✗</i>'
        )  # fmt: skip
        lines.append(f"<span>{mark} {escape(who)}: {escape(names[predictions[row]])}</span>")
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
