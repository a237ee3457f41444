"""TODO runs.predictions."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from kdcache.errors import KdcacheError
from kdcache.runtime import save_tensors

_LARGEST = torch.finfo(torch.float16).max


def save_predictions(path: Path, labels: Tensor, **logits: Tensor | None) -> None:
    """Keep what was answered to the test images, small: float16, each row less its largest logit.

    That subtraction changes no probability, and it makes the largest logit an exact 0 with float16's finest steps
    around it, so that rounding moves no answer. Logits that are not finite become the least float16.

    Args:
        labels: int64 `(M,)`.
        logits: float `(M, K)` by who answered, `student` or `teacher`; None is left out.
    """
    state = {"labels": labels}
    for who, rows in logits.items():
        if rows is not None:
            rows = rows.float().nan_to_num(-torch.inf)
            below = (rows - rows.amax(1, keepdim=True)).nan_to_num(
                0.0
            )  # a row of nothing but infinities says nothing
            state[who] = below.clamp(min=-_LARGEST).half()
    save_tensors(path, state)


def read_predictions(path: Path) -> dict[str, Tensor] | None:
    """What `save_predictions` kept: labels int64 `(M,)`, and logits float32 `(M, K)` as `student` and, perhaps, `teacher`.

    None where a run of an older version left no such file. Raises KdcacheError where the file holds something else.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        predictions = {"labels": state["labels"].long()} | {
            who: state[who].float() for who in state.keys() - {"labels"}
        }
        shape = predictions["student"].shape
        whole = len(shape) == 2 and all(
            rows.shape == shape for who, rows in predictions.items() if who != "labels"
        )
        low, high = predictions["labels"].aminmax()
        if not whole or predictions["labels"].shape != shape[:1] or not 0 <= low <= high < shape[1]:
            raise ValueError("its labels and logits do not fit each other")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise KdcacheError(
            f"{path} as train_student.py writes it", f"{error!r:.200}", "remove it or train anew"
        ) from error
    return predictions
