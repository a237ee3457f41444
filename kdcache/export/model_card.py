"""A student's model card: what its run recorded, in words; where nothing was recorded it says so."""

import math
from collections.abc import Mapping
from typing import Any

_UNKNOWN = "not recorded"
_NORMAL_95 = 1.96


def model_card(
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    parameters: int,
    resolved_command: str,
) -> str:
    """Markdown.

    Args:
        summary, config, description: a finished run's summary.json, config.json and student.json.
        parameters: numbers that the student learned.
        resolved_command: a command that amounts to the run's, shown where config.json holds none.
    """
    options = config["options"]
    facts = [
        _line(f"# {summary.get('student', _UNKNOWN)} for {summary.get('dataset', _UNKNOWN)}"),
        "",
        _opening(summary, parameters),
    ]
    parts = {
        "Use": _use(description),
        "Classes": [_line(", ".join(description["class_names"]))],
        "Data": _data(summary, options),
        "Training": [*_training(summary, config), "", *_command(config, resolved_command)],
        "Teacher": _teacher(summary, options),
        "Accuracy": _accuracy(summary),
        "Limits": _limits(summary, options),
    }
    for title, lines in parts.items():
        facts += ["", f"## {title}", "", *lines]
    return "\n".join(facts)


def _opening(summary: Mapping[str, Any], parameters: int) -> str:
    alpha = summary.get("alpha")
    how = {None: f"how it was taught is {_UNKNOWN}", 0: "trained on labels only"}
    return f"An image classifier with {parameters:,} parameters, {how.get(alpha, 'distilled from cached teacher logits')}."


def _use(description: Mapping[str, Any]) -> list[str]:
    size, shape = description["image_size"], description.get("image_shape")
    mean, std = (", ".join(f"{number:g}" for number in description[key]) for key in ("mean", "std"))
    stored = f"{shape[0]} x {shape[1]} pixels (height x width)" if shape else _UNKNOWN
    return _bullets(
        {
            "Dataset's images": stored,
            "Input": f"RGB, the whole image resized (bilinear, antialiased) to {size} x {size} pixels, as float32",
            "Normalisation": f"(value / 255 - mean) / std, mean {mean}, std {std}",
            "Output": f"{len(description['class_names'])} logits before softmax, in the order of the classes below",
        }
    )


def _data(summary: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    tested, limit, distilled = (
        summary.get("test_images"),
        options.get("limit"),
        options.get("cache") is not None,
    )
    subset = (
        "as in the cache"
        if distilled
        else f"{limit:,} images of each split at most"
        if limit
        else "all images"
    )
    return _bullets(
        {
            "Dataset": summary.get("dataset"),
            "Taken": subset,
            "Division": "80 % training, 20 % validation of the training images, stratified; a test split of its own",
            "Test images": f"{tested:,}" if isinstance(tested, int) else None,
            "SHA-256 of the test split's pixels and labels": summary.get("test_digest"),
            "Origin, licence and consent of the people shown, if any": None,
        }
    )


def _training(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    options = config["options"]
    custom = ":" in str(options.get("student"))
    weights = options.get("student_weights") or ("none" if custom else "IMAGENET1K_V1")
    seconds = summary.get("seconds")
    return _bullets(
        {
            "Student's first weights": "none (random)" if weights == "none" else weights,
            "Epochs": f"{summary.get('epochs', _UNKNOWN)}, best on validation: {summary.get('best_epoch', _UNKNOWN)}",
            "Seed": summary.get("seed"),
            "Software": config.get("software"),
            "Kind of device": config.get("device_type"),
            "Seconds": f"{seconds:.0f}" if isinstance(seconds, float) else None,
        }
    )


def _command(config: Mapping[str, Any], resolved_command: str) -> list[str]:
    if config.get("command"):
        return ["The command:", "", "```sh", config["command"], "```"]
    words = "The command was not recorded. From the recorded options, defaults filled in, one that amounts to it:"
    return [words, "", "```sh", resolved_command, "```"]


def _teacher(summary: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    teacher = summary.get("teacher")
    if not teacher:
        return ["None."]
    taught = summary.get("alpha") != 0
    loss = f"alpha {summary.get('alpha', _UNKNOWN)}, temperature {summary.get('temperature', _UNKNOWN)}"
    return _bullets(
        {
            "Teacher": teacher.get("name"),
            "Cache's fingerprint": summary.get("fingerprint"),
            "Cache": options.get("cache"),
            "Part in the training": loss if taught else "none (alpha 0)",
            "From the teacher's classes to the student's": summary.get("projection")
            if taught
            else "does not apply",
            "Views of teacher and student": summary.get("views") if taught else "does not apply",
        }
    )


def _accuracy(summary: Mapping[str, Any]) -> list[str]:
    rows = [("student", summary)]
    if summary.get("teacher"):
        rows.append(("teacher, in the student's classes", summary["teacher"]))
    table = ["| | validation % | test % |", "|---|---|---|"]
    for name, scores in rows:
        cells = (_percent(scores.get(f"{split}_accuracy")) for split in ("validation", "test"))
        table.append(f"| {name} | {' | '.join(cells)} |")
    return table


def _limits(summary: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    share, count = summary.get("test_accuracy"), summary.get("test_images")
    noise = f"{_UNKNOWN}"
    if isinstance(share, float) and isinstance(count, int) and count > 0:
        noise = f"±{100 * _NORMAL_95 * math.sqrt(share * (1 - share) / count):.1f} points (95 %, normal approximation)"
    lines = [
        f"The noise that a test split of this size leaves in the test accuracy: {noise}.",
        "This is one run with one seed; how much the accuracy varies with the seed is not recorded here.",
        "The epoch was chosen by validation accuracy, which is therefore optimistic. The run touched the test split once, at"
        " the end; whether other runs on the same split had a part in choosing the options is not recorded.",
        "Whether the probabilities are calibrated was not measured. An image of none of the classes gets one of them all the"
        " same.",
        "How it answers for images unlike the dataset's (other cameras, other places, damaged or made to deceive) was not"
        " measured.",
        "Licences of the images, of pretrained weights and of this model: not recorded.",
    ]
    if summary.get("views") == "unmatched":
        lines.append(
            "The student's views were its own: the soft targets were those of the whole image."
        )
    if summary.get("labels") == "teacher":
        lines.append(
            "Its labels were the teacher's top predictions: every accuracy here is agreement with the teacher."
        )
    if options.get("train_images"):
        lines.append(f"It was trained on {options['train_images']:,} images of the training part.")
    if options.get("limit"):
        lines.append("It was trained and tested on a part of the dataset.")
    return [f"- {line}" for line in lines]


def _bullets(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"- {name}: {_line(_UNKNOWN if value is None else value)}" for name, value in facts.items()
    ]


def _line(value: Any) -> str:
    return " ".join(str(value).split())


def _percent(share: Any) -> str:
    return f"{100 * share:.2f}" if isinstance(share, int | float) else _UNKNOWN
