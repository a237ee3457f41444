"""What the tests of models share: weights of tiny models, and what a refusal says."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdcache.errors import KdcacheError
from kdcache.models import build_model, class_logits

TINY = "tiny_models:tiny_cnn"


def message(call: Callable[[], object]) -> str:
    with pytest.raises(KdcacheError) as error:
        call()
    return str(error.value)


def outputs(module: nn.Module, side: int) -> int:
    with torch.no_grad():
        return class_logits(module.eval()(torch.zeros(2, 3, side, side))).shape[1]


def tiny_state(classes: int = 10) -> dict[str, Tensor]:
    return build_model(TINY, None, seed=5, classes=classes).module.state_dict()


def saved(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
