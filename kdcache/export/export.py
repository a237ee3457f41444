"""A finished run's student in a format that others load without kdcache, checked before it gets its name."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcache import __version__
from kdcache.errors import KdcacheError
from kdcache.export.formats import FORMATS, first_line, read_format, require_packages, write_format
from kdcache.export.model_card import model_card
from kdcache.export.student import FinishedRun, sample_images
from kdcache.models import class_logits, state_digest
from kdcache.runs import RUN_FILES
from kdcache.runtime import write_atomically, write_json, write_text

CARD_FILE = "MODEL_CARD.md"
CHECKED_IMAGES = 64
TOLERANCE = 1e-3
"""How far exported logits may be off, as a share of the largest absolute logit: well above what float32 kernels differ
by (about 1e-6), well below what moves an answer."""


@dataclass(frozen=True)
class Check:
    """An exported model against the student. `difference` and `tolerance` are absolute, in logits."""

    inputs: int
    real: bool
    difference: float
    tolerance: float
    agreement: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # false for nan

    def __str__(self) -> str:
        on = (
            f"{self.inputs} images of the test split"
            if self.real
            else f"{self.inputs} random inputs only, no real images,"
        )
        return (
            f"checked on {on} in batches of 1 and {self.inputs - 1}: largest difference of logits {self.difference:.2g}"
            f" (tolerance {self.tolerance:.2g}), same top answer for {self.agreement:.1%}"
        )


class DisagreementError(Exception):
    """An exported model that does not answer as the student does; nothing was written. Its message is one line."""


def export(
    run: FinishedRun, name: str, to: Path | None, *, data: Path | None, overwrite: bool
) -> tuple[Path, Check]:
    """Write the run's student to `to` in the format `name`, with FILE.json and MODEL_CARD.md beside it.

    Args:
        to: None means student.SUFFIX in the run's folder.
        data: folder with the dataset's images, for the check; None means where the run had them.
        overwrite: replace what is there.

    Returns the file and how it was checked.

    Raises KdcacheError where the format or destination cannot be had, and DisagreementError where the exported model
    answers otherwise than the student. In both cases nothing is written.
    """
    if name not in FORMATS:
        raise KdcacheError(
            f"--format to be one of {', '.join(FORMATS)}", f"--format {name}", "correct the option"
        )
    file = to or run.folder / f"student.{FORMATS[name].suffix}"
    card = _card(run)
    _refuse_taken(run, file, card, overwrite)
    require_packages(name)
    images = sample_images(run, data, CHECKED_IMAGES)
    inputs = _random_inputs(run, CHECKED_IMAGES) if images is None else run.render(images)
    facts = _facts(run)
    # random, because pt2 keeps its example: no image of the dataset may leave with the student
    raw = write_format(name, run.module, _random_inputs(run, 2), json.dumps(facts, indent=1))
    check = check_export(run, name, raw, inputs, real=images is not None)
    if not check.passed:
        raise DisagreementError(
            f"the exported model does not answer as the student does, and was not written; {check}"
        )
    checked = {
        "inputs": check.inputs,
        "real_images": check.real,
        "largest_logit_difference": check.difference,
    }
    checked |= {"tolerance": check.tolerance, "same_top_answer": check.agreement}
    proof = {
        "file": file.name,
        "format": name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "check": checked,
    }
    write_json(_beside(file), proof | facts)
    write_text(file.with_name(CARD_FILE), card)
    write_atomically(file, lambda temporary: temporary.write(raw))  # last: where it is, all is
    return file, check


def check_export(run: FinishedRun, name: str, raw: bytes, inputs: Tensor, *, real: bool) -> Check:
    """Compare an exported model with the student on `inputs` float32 `(N, 3, S, S)`, in batches of 1 and N - 1.

    Raises DisagreementError where the exported model does not run, or returns another shape.
    """
    if len(inputs) == 1:
        inputs = inputs.repeat(2, 1, 1, 1)
    with torch.no_grad():
        student_logits = class_logits(run.module(inputs))
        try:
            answer = read_format(name, raw, run.module)
            exported_logits = torch.cat([answer(inputs[:1]), answer(inputs[1:])])
        except Exception as error:  # whatever another runtime has to say
            fault = f"the exported model does not run in batches of 1 and {len(inputs) - 1}, and was not written"
            raise DisagreementError(f"{fault}; {first_line(error)}") from error
    if exported_logits.shape != student_logits.shape:
        shapes = f"{tuple(exported_logits.shape)} for {tuple(student_logits.shape)}"
        raise DisagreementError(
            f"the exported model returns another shape, and was not written; {shapes}"
        )
    difference = (exported_logits - student_logits).abs().max().item()
    tolerance = TOLERANCE * student_logits.abs().max().item()
    agreement = (exported_logits.argmax(1) == student_logits.argmax(1)).float().mean().item()
    return Check(len(inputs), real, difference, tolerance, agreement)


def _card(run: FinishedRun) -> str:
    parameters = sum(value.numel() for value in run.module.parameters())
    return model_card(
        run.summary, run.config, run.description, parameters, run.options.command_line()
    )


def _facts(run: FinishedRun) -> dict[str, Any]:
    """What one must know to use the student, as it travels inside the file and beside it."""
    size, classes = run.preprocessing.image_size, len(run.preprocessing.class_names)
    return {
        "model": run.description["model"],
        "small_stem": bool(run.description.get("small_stem")),
        "class_names": list(run.preprocessing.class_names),
        "image_shape": list(run.image_shape) if run.image_shape else None,
        "image_size": size,
        "interpolation": "bilinear, antialiased",
        "mean": list(run.preprocessing.mean),
        "std": list(run.preprocessing.std),
        "input": f"float32 (B, 3, {size}, {size}), RGB, (value / 255 - mean) / std",
        "output": f"float32 (B, {classes}), logits before softmax, in the order of class_names",
        "fingerprint": run.description.get("fingerprint"),
        "state_digest": state_digest(run.module),
        "made_with": f"kdcache {__version__}, torch {torch.__version__}",
    }


def _random_inputs(run: FinishedRun, count: int) -> Tensor:
    size = run.preprocessing.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _refuse_taken(run: FinishedRun, file: Path, card: str, overwrite: bool) -> None:
    """Raise KdcacheError where the destination is no file's name, is the run's own, or is taken."""
    try:
        if file.is_dir() or file.name == CARD_FILE:
            raise KdcacheError("the name of a file to write", f"--to {file}", "give another --to")
        if not file.parent.is_dir():
            raise KdcacheError(
                "a folder that is there", f"--to {file}", f"make {file.parent} or give another --to"
            )
        if file.parent.samefile(run.folder) and {file.name, _beside(file).name} & set(RUN_FILES):
            raise KdcacheError(
                "a name that is not one of the run's own files", f"--to {file}", "give another --to"
            )
        if overwrite:
            return
        taken = next((path for path in (file, _beside(file)) if path.exists()), None)
        if taken is not None:
            raise KdcacheError(
                "a destination that is not there yet",
                f"{taken}",
                "give another --to, or --overwrite",
            )
        path = file.with_name(CARD_FILE)
        if path.exists() and path.read_bytes() != f"{card}\n".encode():
            raise KdcacheError(
                "no model card of something else", f"{path}", "give another --to, or --overwrite"
            )
    except OSError as error:
        raise KdcacheError(
            "a name that can be written", f"--to {file} ({error.strerror})", "give another --to"
        ) from error
