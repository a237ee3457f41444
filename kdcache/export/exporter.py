"""A finished run's student as a file that needs no kdcache, checked before it gets its name."""

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdcache import __version__
from kdcache.distill import agreement
from kdcache.errors import KdcacheError, OptionError
from kdcache.export.finished_run import FinishedRun, sample_images
from kdcache.export.formats import Format, load_format
from kdcache.export.model_card import model_card
from kdcache.models import class_logits, state_digest
from kdcache.runs import RUN_FILES
from kdcache.runtime import write_atomically, write_json, write_text

CARD_FILE = "MODEL_CARD.md"
CHECKED_IMAGES = 64
TOLERANCE = 1e-3
"""How far exported logits may be off, as a fraction of the largest absolute logit: well above what
float32 kernels differ by (about 1e-6), well below what changes a prediction."""


@dataclass(frozen=True)
class Check:
    """An exported model against the student.

    Attributes:
        inputs: how many there were.
        real: whether they were images of the test split, not random numbers.
        difference, tolerance: the largest absolute difference of logits, found and allowed.
        agreement: the fraction of the inputs with the same prediction.
    """

    inputs: int
    real: bool
    difference: float
    tolerance: float
    agreement: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # false for nan

    def __str__(self) -> str:
        what = "images of the test split" if self.real else "random inputs only, no real images,"
        return (
            f"checked on {self.inputs} {what} in batches of 1 and {self.inputs - 1}:"
            f" largest difference of logits {self.difference:.2g} (tolerance {self.tolerance:.2g}),"
            f" same prediction for {self.agreement:.1%}"
        )


class DisagreementError(KdcacheError):
    """An exported model that does not predict as the student does; nothing was written."""

    def __init__(self, expected: str, found: str, remedy: str = "") -> None:
        remedy = remedy or "nothing was written: try another --format, or change the model"
        super().__init__(expected, found, remedy)


def export_student(
    run: FinishedRun,
    format_name: str,
    to: Path | None = None,
    *,
    data: Path | None = None,
    overwrite: bool = False,
) -> tuple[Path, Check]:
    """Write a run's student in a format, with FILE.json and MODEL_CARD.md beside it.

    Args:
        format_name: of `FORMATS`, or package.module:name of a `Format`.
        to: the file; None means student.SUFFIX in the run's folder.
        data: folder with the dataset's images, for the check; None means where the run had them.
        overwrite: replace what is there.

    Returns the file and how it was checked.

    Raises OptionError where the format or the destination cannot be had, DataError where the images
    or the room are missing, and DisagreementError where the exported model predicts otherwise than
    the student. In all cases nothing is written.
    """
    chosen = load_format(format_name)
    file = to or run.folder / f"student.{chosen.suffix}"
    card = _card(run)
    _refuse_taken(run, file, card, overwrite)
    images = sample_images(run, data, CHECKED_IMAGES)
    inputs = _random_inputs(run, CHECKED_IMAGES) if images is None else run.render(images)
    facts = _facts(run)
    raw = _write(format_name, chosen, run, json.dumps(facts, indent=1))
    check = check_export(run, chosen, raw, inputs, real=images is not None)
    if not check.passed:
        raise DisagreementError("an exported model that predicts as the student does", f"{check}")
    proof = {
        "file": file.name,
        "format": format_name,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "check": {
            "inputs": check.inputs,
            "real_images": check.real,
            "largest_logit_difference": check.difference,
            "tolerance": check.tolerance,
            "agreement": check.agreement,
        },
    }
    write_json(_beside(file), proof | facts)
    write_text(file.with_name(CARD_FILE), card)
    # last: where the file is, all of it is
    write_atomically(file, lambda temporary: temporary.write(raw))
    return file, check


def check_export(
    run: FinishedRun, chosen: Format, raw: bytes, inputs: Tensor, *, real: bool
) -> Check:
    """Compare an exported model with the student in batches of 1 and N - 1.

    Args:
        raw: the exported file.
        inputs: float32 `(N, 3, S, S)`.
        real: whether they are images of the test split.

    Raises DisagreementError where the exported model does not run, or returns another shape.
    """
    if len(inputs) == 1:
        inputs = inputs.repeat(2, 1, 1, 1)
    with torch.no_grad():
        student_logits = class_logits(run.module(inputs))
        try:
            exported = chosen.read(raw, run.module)
            exported_logits = torch.cat([exported(inputs[:1]), exported(inputs[1:])])
        except Exception as error:  # whatever another runtime has to say
            raise DisagreementError(
                f"an exported model that runs in batches of 1 and {len(inputs) - 1}",
                _first_line(error),
            ) from error
    if exported_logits.shape != student_logits.shape:
        raise DisagreementError(
            f"an exported model that returns logits {tuple(student_logits.shape)}",
            f"{tuple(exported_logits.shape)}",
        )
    return Check(
        inputs=len(inputs),
        real=real,
        difference=(exported_logits - student_logits).abs().max().item(),
        tolerance=TOLERANCE * student_logits.abs().max().item(),
        agreement=agreement(exported_logits, student_logits),
    )


def _write(format_name: str, chosen: Format, run: FinishedRun, facts: str) -> bytes:
    """The file's bytes. Raises OptionError where the student cannot be exported."""
    # random, because pt2 keeps its example: no image of the dataset may leave with the student
    example = _random_inputs(run, 2)
    try:
        with _quietly():
            return chosen.write(run.module, example, facts)
    except Exception as error:  # a model of one's own can break the exporters in any way
        raise OptionError(
            f"a student that exports as {format_name} with batches of any size",
            _first_line(error.__cause__ or error),
            "try another --format, or change the model",
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporters log and print; what they doubt, the check settles."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: BaseException) -> str:
    """What an error of another library says first, which is what fits in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _card(run: FinishedRun) -> str:
    parameters = sum(value.numel() for value in run.module.parameters())
    return model_card(run.summary, run.config, run.card, parameters)


def _facts(run: FinishedRun) -> dict[str, Any]:
    """What one must know to use the student, as it travels inside the file and beside it."""
    known = run.card.preprocessing
    size, classes = known.image_size, len(known.class_names)
    return {
        "model": run.card.model,
        "small_stem": run.card.small_stem,
        "class_names": list(known.class_names),
        "image_shape": list(run.card.image_shape) if run.card.image_shape else None,
        "image_size": size,
        "interpolation": f"{known.interpolation}, antialiased",
        "mean": list(known.mean),
        "std": list(known.std),
        "input": f"float32 (B, 3, {size}, {size}), RGB, (value / 255 - mean) / std",
        "output": f"float32 (B, {classes}), logits before softmax, in the order of class_names",
        "fingerprint": run.card.fingerprint,
        "state_digest": state_digest(run.module),
        "made_with": f"kdcache {__version__}, torch {torch.__version__}",
    }


def _random_inputs(run: FinishedRun, count: int) -> Tensor:
    size = run.card.preprocessing.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _refuse_taken(run: FinishedRun, file: Path, card: str, overwrite: bool) -> None:
    """Raise OptionError where the destination is no file's name, is the run's own, or is taken."""
    another = "give another --to"
    try:
        if file.is_dir() or file.name == CARD_FILE:
            raise OptionError("the name of a file to write", f"--to {file}", another)
        if not file.parent.is_dir():
            remedy = f"make {file.parent} or {another}"
            raise OptionError("a folder that is there", f"--to {file}", remedy)
        names = {file.name, _beside(file).name}
        if file.parent.samefile(run.folder) and names & set(RUN_FILES):
            raise OptionError("a name that no file of the run has", f"--to {file}", another)
        if overwrite:
            return
        for path in (file, _beside(file)):
            if path.exists():
                expected = "a destination that is not there yet"
                raise OptionError(expected, f"{path}", f"{another}, or --overwrite")
        path = file.with_name(CARD_FILE)
        if path.exists() and path.read_bytes() != f"{card}\n".encode():
            expected = "no model card of something else"
            raise OptionError(expected, f"{path}", f"{another}, or --overwrite")
    except OSError as error:
        found = f"--to {file} ({error.strerror})"
        raise OptionError("a name that can be written", found, another) from error
