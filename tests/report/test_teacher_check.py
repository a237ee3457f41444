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
from kdcache.report.teacher_check import _compare, _shared, rerun_teacher


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
    shown = capsys.readouterr().out
    assert ["rows", "50"] in [line.split() for line in shown.splitlines()]
    assert "within" not in shown and "True" not in shown
    assert "the teacher still gives these logits, but for what its precision explains" in shown


@pytest.mark.parametrize(
    ("count", "rows", "expected"),
    [
        (50, (240, 20, 20), (43, 4, 3)),  # 42.86, 3.57, 3.57
        (49, (240, 20, 20), (42, 4, 3)),  # 42.0, 3.5, 3.5
        (1, (240, 20, 20), (1, 1, 1)),
        (5, (1000, 1, 1), (3, 1, 1)),
        (1000, (240, 20, 20), (240, 20, 20)),
    ],
)
def test_the_splits_share_the_rows(
    count: int, rows: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert tuple(_shared(count, dict(zip("abc", rows, strict=True))).values()) == expected


def test_rounding_gives_no_negative_divergence() -> None:
    """Logits that differ by as much as float32 rounds: in float32 the mean comes out below 0."""
    generator = torch.Generator().manual_seed(0)
    stored = 10 * torch.randn(200, 1000, generator=generator)
    live = stored + 1e-6 * torch.randn(200, 1000, generator=generator)
    log_p, log_q = stored.log_softmax(1), live.log_softmax(1)
    assert (log_p.exp() * (log_p - log_q)).sum(1).min() < 0
    found = _compare(stored, live, "fp32")
    assert 0 <= found["mean_kl"] < 1e-9


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
