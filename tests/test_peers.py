"""docs/peers.py on something tiny: that what it times is the same training."""

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm.task", reason="timm with its tasks")
pytest.importorskip("torchdistill.core.distillation", reason="torchdistill")

sys.path.append(str(Path(__file__).parent.parent / "docs"))
import peers

from kdcache.bench.timing import Timings

TINY = "timm/test_resnet"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> peers.Setting:
    """16 training images in one batch of their own size, so that nobody resizes anything."""
    cache = tmp_path_factory.mktemp("peers") / "teacher.h5"
    found = peers.Setting(cache, "shapes", Path(), 20, TINY, TINY, 32, 16, workers=0, ready=True)
    peers.make_cache(found)
    return found


@pytest.mark.parametrize("distilled", [False, True])
def test_all_take_the_same_step(setting: peers.Setting, distilled: bool) -> None:
    states = []
    for make in (peers.kdcache_training, peers.timm_training, peers.torchdistill_training):
        student, epoch = make(setting, distilled)
        before = {name: value.clone() for name, value in student.state_dict().items()}
        epoch()
        after = student.state_dict()
        assert not torch.equal(before["fc.weight"], after["fc.weight"])
        states.append({name: after[name] - value for name, value in before.items()})
    for other in states[1:]:
        # the cache holds float16
        torch.testing.assert_close(other, states[0], rtol=0.02, atol=2e-6)


def test_their_images_are_views_of_their_size(setting: peers.Setting) -> None:
    split = setting.images().splits["train"]
    cropped = peers.TheirImages(split, replace(setting, image_size=48, ready=False))
    assert cropped[3][0].shape == (3, 48, 48) and cropped[3][1] == split.labels[3]
    whole = peers.TheirImages(split, setting)
    mean, std = (
        torch.tensor(one).view(3, 1, 1) for one in (peers.IMAGENET_MEAN, peers.IMAGENET_STD)
    )
    torch.testing.assert_close(whole[3][0], (split.images[3] / 255 - mean) / std)


def test_the_process_of_a_side_trains_when_it_is_asked(setting: peers.Setting) -> None:
    ours, theirs = multiprocessing.Pipe()
    for wanted in (True, True, False):
        ours.send(wanted)
    peers.serve(theirs, "torchdistill, teacher in every step", setting)
    peaks = [ours.recv(), ours.recv()]
    assert min(peaks) > 100 << 20  # bytes: torch alone takes more
    assert not ours.poll()


def test_the_tables_by_hand() -> None:
    # in two rounds: labels only 2 s against 4 and 5 s, from the cache 2 s against 8 and 10
    seconds = dict(zip(peers.SIDES, [(2.0, 2.0), (4.0, 4.0), (5.0, 5.0), (2.0, 2.2), (8.0, 8.0),
                                     (10.0, 10.0)], strict=True))  # fmt: skip
    found = peers.comparisons(Timings(seconds), student=1.0, teacher=2.0)
    # three forwards of 1 beside one of 2
    assert [str(one.target) for one in found[:2]] == ["≤ 1.02", "≤ 0.6"]
    assert [one.values for one in found] == [
        (0.5, 0.5),
        (0.25, pytest.approx(0.275)),
        (1.0, pytest.approx(1.1)),
        (0.5, 0.5),
        (0.5, 0.5),
    ]
    lines = peers.markdown(Timings(seconds), dict.fromkeys(peers.SIDES, 3 << 20), found)
    assert "| timm, labels only | 4 | 4..4 | 3 |" in lines
    assert "| labels only, kdcache over the faster one | 0.5 | 0.5..0.5 | ≤ 1.02 | yes |" in lines
