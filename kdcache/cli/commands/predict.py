"""The most probable classes of image files, by a finished run's student."""

import argparse
import json
from pathlib import Path

from kdcache import data, export, runtime
from kdcache.cli.console import say, warn
from kdcache.cli.parser import add_model_argument
from kdcache.errors import KdcacheError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    add_model_argument(parser, "student")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="predictions of an image")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--device", default="auto", help="where the student runs")


def run(arguments: argparse.Namespace) -> int:
    finished = export.open_run(arguments.run, arguments.student)
    paths = data.image_files(arguments.images)
    if finished.card.image_shape is None:
        warn(
            f"{arguments.run} does not record its images' size:"
            " taken to be the student's input size"
        )
    faults: list[KdcacheError] = []

    def on_fault(error: KdcacheError) -> None:
        faults.append(error)
        warn(f"error: {error}")

    device = runtime.pick_device(arguments.device)
    predictions = export.predict(
        finished, paths, top=arguments.top, device=device, on_fault=on_fault
    )
    for prediction in predictions:
        say(_as_json(prediction) if arguments.json else _in_words(prediction))
    return int(bool(faults))


def _as_json(prediction: "export.Prediction") -> str:
    classes = [
        {"class": name, "probability": probability} for name, probability in prediction.predictions
    ]
    return json.dumps({"image": str(prediction.path), "predictions": classes})


def _in_words(prediction: "export.Prediction") -> str:
    classes = [f"{name} {probability:.1%}" for name, probability in prediction.predictions]
    # a file name may hold anything; a line is one image
    return f"{prediction.path}: {', '.join(classes)}".replace("\n", "\\n")
