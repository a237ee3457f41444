"""Each projection, from the cache and from a teacher in the loop.

The same logits for the same heads.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run

import precompute_teacher
from kdcache.cache import open_cache
from kdcache.config import PROJECTIONS
from kdcache.distill import Projection, load_or_fit_probe, make_targets
from kdcache.errors import OptionError

HEADS = {
    "probe": ("student",),
    "head": ("teacher",),
    "probe+head": ("student", "teacher"),
    "none": ("student",),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a teacher with as many classes as the shapes."""
    path = tmp_path_factory.mktemp("cache") / "t.h5"
    shapes = ["--dataset", "shapes", "--limit", 100, "--image-size", 16]
    views = ["--views", 2, "--augment", "flip"]
    teacher = ["--teacher", "tiny_models:tiny_cnn"]
    assert run(precompute_teacher.main, *shapes, *views, *teacher, "--cache", path) == 0
    return path


@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_cached_and_live_logits_teach_the_same(name: str, path: Path) -> None:
    cache = open_cache(path)
    targets = make_targets(cache, name)
    assert isinstance(targets.projection, Projection)
    assert tuple(targets.train) == targets.projection.heads == HEADS[name]
    rows = torch.arange(5, 60, 7)
    live = torch.from_numpy(np.asarray(cache.splits["train"].logits[rows, 1])).float()
    for head, logits in targets.projection.batch_logits(live, rows).items():
        torch.testing.assert_close(logits, targets.train[head][rows, 1].float())


def test_what_no_fit_has_seen_goes_through_the_fit_on_all_rows(path: Path) -> None:
    cache = open_cache(path)
    logits = torch.from_numpy(np.asarray(cache.splits["test"].logits[:, 0]))
    expected = load_or_fit_probe(cache).project(logits)
    for name in ("probe", "head", "probe+head"):
        assert torch.equal(make_targets(cache, name).predictions["test"], expected)
    assert torch.equal(make_targets(cache, "none").predictions["test"], logits.float())


def test_none_wants_as_many_classes(path: Path) -> None:
    with pytest.raises(OptionError, match=r"as many teacher classes as student classes \(3\)"):
        make_targets(open_cache(path), "none", ["a", "b", "c"])


def test_part_of_the_targets(path: Path) -> None:
    targets = make_targets(open_cache(path), "probe+head")
    rows = np.array([3, 1])
    for head, logits in targets.select(rows, 1).train.items():
        assert torch.equal(logits, targets.train[head][[3, 1], :1])
