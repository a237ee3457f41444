"""A student's model card: what its run recorded, in words, and what it did not record."""

import math
import re
from collections.abc import Mapping
from typing import Any

from kdcache.config import TrainOptions
from kdcache.models import StudentCard, default_weights
from kdcache.runs import RunConfig, RunSummary

_UNKNOWN = "not recorded"
_NORMAL_95 = 1.96


def model_card(
    summary: RunSummary, config: RunConfig, student: StudentCard, parameters: int
) -> str:
    """The card as Markdown.

    Args:
        summary, config, student: what a finished run recorded.
        parameters: how many numbers the student learned.
    """
    options = config.options
    sections = {
        "Use": _use(student),
        "Classes": [_plain(", ".join(student.preprocessing.class_names))],
        "Data": _data(summary, options),
        "Training": [*_training(summary, config), "", *_command(config)],
        "Teacher": _teacher(summary, options),
        "Accuracy": _accuracy(summary),
        "Limits": _limits(summary, options),
    }
    lines = [
        f"# {_plain(summary.student)} for {_plain(summary.dataset or _UNKNOWN)}",
        "",
        _opening(summary, parameters),
    ]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines)


def _opening(summary: RunSummary, parameters: int) -> str:
    how = "distilled from cached teacher logits" if summary.distilled else "trained on labels only"
    return f"An image classifier with {parameters:,} parameters, {how}."


def _use(student: StudentCard) -> list[str]:
    known = student.preprocessing
    size, shape = known.image_size, student.image_shape
    mean, std = (", ".join(f"{number:g}" for number in each) for each in (known.mean, known.std))
    return _bullets(
        {
            "Dataset's images": f"{shape[0]} x {shape[1]} pixels (height x width)"
            if shape
            else None,
            "Input": (
                f"RGB, the whole image resized ({known.interpolation}, antialiased) to"
                f" {size} x {size} pixels, as float32"
            ),
            "Normalisation": f"(value / 255 - mean) / std, mean {mean}, std {std}",
            "Output": (
                f"{len(known.class_names)} logits before softmax, in the order of the classes below"
            ),
        }
    )


def _data(summary: RunSummary, options: TrainOptions) -> list[str]:
    subset = "all images"
    if options.cache is not None:
        subset = "as in the cache"
    elif options.limit:
        subset = f"{options.limit:,} images of each split at most"
    tested = summary.test_images
    validation = "20 % of the training images, stratified"
    if summary.dataset == "folder" or ":" in (summary.dataset or ""):
        validation += ", where none was given"
    return _bullets(
        {
            "Dataset": summary.dataset,
            "Taken": subset,
            "Validation split": validation,
            "Test images": None if tested is None else f"{tested:,}",
            "SHA-256 of the test split's pixels and labels": summary.test_digest,
            "Origin, licence and consent of the people shown, if any": None,
        }
    )


def _training(summary: RunSummary, config: RunConfig) -> list[str]:
    options = config.options
    weights = options.student_weights or default_weights(options.student)
    epochs, best = (_known(number) for number in (summary.epochs, summary.best_epoch))
    return _bullets(
        {
            "Student's first weights": "none (random)" if weights == "none" else weights,
            "Epochs": f"{epochs}, best on validation: {best}",
            "Seed": summary.seed,
            "Software": config.software,
            "Kind of device": config.device_type,
            "Seconds": None if summary.seconds is None else f"{summary.seconds:.0f}",
        }
    )


def _command(config: RunConfig) -> list[str]:
    if config.command:
        return ["The command:", "", *_fenced(config.command)]
    words = (
        "The command was not recorded. From the recorded options, defaults filled in, one that"
        " amounts to it:"
    )
    return [words, "", *_fenced(config.options.command_line())]


def _fenced(command: str) -> list[str]:
    """A block of code, in a fence that is longer than any in the command."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return [f"{fence}sh", _one_line(command), fence]


def _teacher(summary: RunSummary, options: TrainOptions) -> list[str]:
    if summary.teacher is None:
        return ["None."]
    facts: dict[str, Any] = {
        "Teacher": summary.teacher.name,
        "Cache's fingerprint": summary.fingerprint,
        "Cache": ", ".join(map(str, options.caches)) or None,
    }
    if summary.distilled:
        weights = f"alpha {summary.alpha}"
        if options.label_weight is not None:
            weights = f"label weight {options.label_weight:g}, distillation weight"
            weights += f" {options.distill_weight:g}"
        facts |= {
            "In the loss": f"{weights}, temperature {_known(summary.temperature)}",
            "From the teacher's classes to the student's": summary.projection,
            "Views of teacher and student": summary.views,
        }
    else:
        facts["In the loss"] = "no (alpha 0)"
    return _bullets(facts)


def _accuracy(summary: RunSummary) -> list[str]:
    table = ["| | validation % | test % |", "|---|---|---|"]
    rows: list[tuple[str, float | None, float | None]] = [
        ("student", summary.validation_accuracy, summary.test_accuracy)
    ]
    if (teacher := summary.teacher) is not None:
        name = "teacher, in the student's classes"
        rows.append((name, teacher.validation_accuracy, teacher.test_accuracy))
    for name, validation, test in rows:
        table.append(f"| {name} | {_percent(validation)} | {_percent(test)} |")
    return table


def _limits(summary: RunSummary, options: TrainOptions) -> list[str]:
    lines = [
        "The noise that a test split of this size leaves in the test accuracy:"
        f" {_test_noise(summary)}.",
        "This is one run with one seed; how much the accuracy varies with the seed is not recorded"
        " here.",
        "The epoch was chosen by validation accuracy, which is therefore optimistic. The run used"
        " the test split once, at the end; whether other runs on the same split had a part in"
        " choosing the options is not recorded.",
        "Whether the probabilities are calibrated was not measured. An image of none of the classes"
        " is given one of them all the same.",
        "How it predicts images unlike the dataset's (other cameras, other places, damaged or made"
        " to deceive) was not measured.",
        "Licences of the images, of pretrained weights and of this model: not recorded.",
    ]
    if summary.views == "unmatched":
        lines.append(
            "The student's views were its own: the soft targets were the mean over the views that"
            " the teacher had seen."
        )
    if summary.labels == "teacher":
        lines.append(
            "Its labels were the teacher's top predictions: every accuracy here is agreement with"
            " the teacher."
        )
    if summary.unlabelled:
        lines.append(
            f"Of {summary.unlabelled:,} images it had no labels, only the teacher's soft targets."
        )
    if options.train_images:
        lines.append(f"It was trained on {options.train_images:,} images of the training split.")
    if options.limit:
        lines.append("It was trained and tested on a part of the dataset.")
    return [f"- {line}" for line in lines]


def _test_noise(summary: RunSummary) -> str:
    """The half-width of the 95 % interval of the test accuracy."""
    accuracy, count = summary.test_accuracy, summary.test_images
    if accuracy is None or not count:
        return _UNKNOWN
    points = 100 * _NORMAL_95 * math.sqrt(accuracy * (1 - accuracy) / count)
    return f"±{points:.1f} points (95 %, normal approximation)"


def _bullets(facts: Mapping[str, Any]) -> list[str]:
    return [f"- {name}: {_plain(_known(value))}" for name, value in facts.items()]


def _known(value: object) -> str:
    return _UNKNOWN if value is None else str(value)


def _one_line(text: str) -> str:
    """Without line breaks and what a terminal would obey."""
    return "".join(filter(str.isprintable, " ".join(text.split())))


def _plain(text: str) -> str:
    """On one line, and no HTML, link, code or emphasis to Markdown."""
    return re.sub(r"([\\`*<>&\[\]|~])", r"\\\1", _one_line(text))


def _percent(fraction: float | None) -> str:
    return _UNKNOWN if fraction is None else f"{100 * fraction:.2f}"
