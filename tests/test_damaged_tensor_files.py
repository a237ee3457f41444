"""Every file of tensors that both phases leave, damaged at random: refused, or the same tensors."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run

import train_student
from kdcache.cache import open_cache
from kdcache.distill import probe_file
from kdcache.errors import DataError
from kdcache.models import read_state_dict
from kdcache.runs.predictions import read_predictions
from kdcache.runtime import load_tensors

CPU = torch.device("cpu")
PAGE = 4096
STUDENT = ["--student", "tiny_models:tiny_cnn", "--epochs", 2, "--batch-size", 32]
V01 = Path(__file__).parent / "data" / "v0.1"


@pytest.fixture(scope="module")
def run_folder(shapes_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the probe of its cache."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    assert run(train_student.main, "--cache", shapes_cache, *STUDENT, "--out", folder) == 0
    shutil.copy(probe_file.probe_path(open_cache(shapes_cache)), folder / "probe.pt")
    return folder


def checkpoint(path: Path) -> Any:
    return load_tensors(path, CPU)


def predictions(path: Path) -> Any:
    found = read_predictions(path)
    return found and vars(found)


def users_weights(path: Path) -> Any:
    """A student's, as --teacher-weights."""
    return read_state_dict(path)


def damages(content: bytes, count: int) -> list[bytes]:
    """Bits flipped, ends cut off or added, pages of zeros; half of them near the end."""
    found, generator, size = [], random.Random(len(content)), len(content)
    for number in range(count):
        damaged = bytearray(content)
        place = generator.randrange(size) if number % 2 else size - 1 - generator.randrange(400)
        kind = number % 10
        if kind < 6:
            for _ in range(generator.choice((1, 1, 8))):
                damaged[place] ^= 1 << generator.randrange(8)
                place = generator.randrange(size)
        elif kind == 6:
            del damaged[place:]
        elif kind == 7:
            damaged += bytes(generator.randrange(1, 200))
        else:
            start = place // PAGE * PAGE
            damaged[start : start + PAGE] = bytes(len(damaged[start : start + PAGE]))
        found.append(bytes(damaged))
    return [damaged for damaged in found if damaged != content]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def accepted(path: Path, read: Callable[[Path], Any], count: int) -> int:
    """How many of so many damages are accepted; each with the same tensors."""
    content, sound, number = path.read_bytes(), read(path), 0
    for damaged in damages(content, count):
        path.write_bytes(damaged)
        try:
            found = read(path)
        except DataError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        assert same(found, sound)
        number += 1
    return number


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("student.pt", lambda path: read_state_dict(path, foreign=False)),
        ("student.pt", users_weights),
        ("last.pt", checkpoint),
        ("best.pt", checkpoint),
        ("predictions.pt", predictions),
        ("probe.pt", checkpoint),
    ],
)
def test_no_damage_is_accepted(
    name: str, read: Callable[[Path], Any], run_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(run_folder / name, tmp_path / name)
    assert accepted(tmp_path / name, read, 400) == 0


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("finished/student.pt", lambda path: read_state_dict(path, foreign=False)),
        ("finished/last.pt", checkpoint),
        ("finished/best.pt", checkpoint),
        ("finished/answers.pt", predictions),
        ("teacher.h5.probe-29263aeda3bb4fc9.pt", checkpoint),
    ],
)
def test_of_0_1_0_nothing_else_is_read(
    name: str, read: Callable[[Path], Any], tmp_path: Path
) -> None:
    """Their CRC32s speak for the numbers; what torch does not look at may change."""
    path = tmp_path / Path(name).name
    shutil.copy(V01 / name, path)
    accepted(path, read, 200)
