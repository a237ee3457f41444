"""verify: every byte, and the teacher run again against what it said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_makers import read_layout_of, reseal
from commands import refused, run
from tiny_models import tiny_teacher

from kdcache.cache import open_cache
from kdcache.cli import main as tools
from kdcache.data import ImageData, load_images
from kdcache.errors import DataError
from kdcache.report.teacher_check import rerun_teacher


def test_an_intact_cache(shapes_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tools.main, "verify", shapes_cache) == 0
    assert "every byte is the one that was written" in capsys.readouterr().out


def test_the_first_bad_block_is_named_with_exit_code_1(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "damaged.h5 damaged in block 1 of the logits" in refused(
        tools.main, capsys, "verify", damaged, code=1
    )


def test_the_live_teacher_says_the_same(
    shapes_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tools.main, "verify", shapes_cache, "--live", 50) == 0
    assert "within                  True" in capsys.readouterr().out


def test_the_live_teacher_finds_logits_of_other_images(
    shapes_cache: Path, shapes_images: ImageData, tmp_path: Path
) -> None:
    """Rows shifted by one, and sealed again: every checksum holds, but the teacher disagrees."""
    shifted = tmp_path / "shifted.h5"
    shutil.copy(shapes_cache, shifted)
    layout, splits = read_layout_of(shifted), open_cache(shifted).splits
    with open(shifted, "r+b") as file:
        for extent, split in zip(layout.logits, splits.values(), strict=True):
            file.seek(extent.offset)
            file.write(np.roll(split.logits, 1, axis=0).tobytes())
    reseal(shifted, layout)
    cache = open_cache(shifted)
    result = rerun_teacher(cache, shapes_images, 60, weights=None, device="cpu", seed=0)
    assert not result["within"]
    assert result["agreement"] < 1
    assert run(tools.main, "verify", shifted, "--live", 60) == 1


def test_another_teacher_is_named(
    shapes_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_teacher()
    torch.nn.init.constant_(other[-1].bias, 7.0)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    arguments = ["verify", shapes_cache, "--live", 5, "--teacher-weights", tmp_path / "other.pt"]
    message = refused(tools.main, capsys, *arguments)
    assert (
        "expected the teacher's weights (state dict" in message
        and "as --teacher-weights" in message
    )


def test_in_a_child_process(
    shapes_cache: Path, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tools.main, "verify", shapes_cache, "--untrusted") == 0
    capsys.readouterr()
    assert run(tools.main, "verify", damaged, "--untrusted") == 1
    assert "block 1 of the logits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: CACHE"),
        (["none.h5"], "expected a finished cache; found none.h5: No such file or directory"),
        (["/"], "expected a cache file; found /, which is not a file"),
        (["/dev/null"], "which is not a file"),
    ],
)
def test_what_is_no_cache_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(tools.main, capsys, "verify", *arguments)


def test_other_images_are_refused(shapes_cache: Path, tmp_path: Path) -> None:
    turned = load_images("shapes", tmp_path, limit=100, split_seed=1)
    with pytest.raises(DataError, match="other images or labels, the first in train row"):
        rerun_teacher(open_cache(shapes_cache), turned, 5, weights=None, device="cpu", seed=0)
