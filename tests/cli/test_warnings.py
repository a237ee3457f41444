"""What can be used but may not be meant: a line on standard error, and the work goes on."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from phases import SHAPES

import precompute_teacher
from kdcache.errors import KdcacheWarning

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def shown() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always", KdcacheWarning)
        yield


def warned(capsys: Capture, tmp_path: Path, *arguments: object) -> list[str]:
    capsys.readouterr()
    assert run(precompute_teacher.main, *SHAPES, *arguments, "--cache", tmp_path / "t.h5") == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return [line for line in lines if "warning" in line.lower()]


def test_a_teacher_that_has_learned_nothing(tmp_path: Path, capsys: Capture) -> None:
    """tiny_teacher has 4 random tensors: weight and bias of a convolution and of the head."""
    assert warned(capsys, tmp_path, "--teacher", "tiny_models:tiny_teacher") == [
        "warning: 4 of the 9 tensors of tiny_models:tiny_teacher are random, which differ from seed"
        " to seed: such a teacher has learned nothing; give --teacher-weights, or none if that is"
        " meant"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--teacher", "tiny_models:tiny_teacher", "--teacher-weights", "none"],
        ["--teacher", "tiny_models:with_its_own_weights"],
    ],
    ids=["as asked for", "its own weights"],
)
def test_not_one_that_may_have(arguments: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert warned(capsys, tmp_path, *arguments) == []


def test_a_mean_of_pixels(tmp_path: Path, capsys: Capture) -> None:
    teacher = ["--teacher", "tiny_models:tiny_teacher", "--teacher-weights", "none"]
    (line,) = warned(capsys, tmp_path, *teacher, "--mean", "123,117,104")
    assert line.startswith("warning: --mean 123,117,104 is not on the scale 0 to 1")
