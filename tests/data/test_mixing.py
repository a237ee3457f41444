"""Mixup and CutMix: fractions that are what they say, and mixes that are alike at every size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.mixing import Mix, draw_mix


def test_mixup_by_hand() -> None:
    mix = Mix(torch.tensor([1, 0]), 0.75, None)
    inputs = torch.tensor([4.0, 8.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert mix.images(inputs)[:, 0, 0, 0].tolist() == [
        5.0,
        7.0,
    ]  # 3/4 * 4 + 1/4 * 8 and the reverse


def test_cutmix_by_hand() -> None:
    mix = Mix(torch.tensor([1, 0]), 0.75, (0.0, 0.5, 0.5, 1.0))
    inputs = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    mixed = mix.images(inputs)
    assert mixed[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert inputs[0].eq(1).all(), "the inputs are left alone"


def test_a_term_is_the_weighted_mean_over_both_targets() -> None:
    mix = Mix(torch.tensor([1, 0]), 0.8, None)
    assert mix.blend(torch.tensor(10.0), torch.tensor(60.0)).item() == pytest.approx(
        20
    )  # 0.8 * 10 + 0.2 * 60


@given(st.integers(0, 500), st.integers(8, 64))
def test_cutmixs_fraction_is_what_is_left_of_the_image(draw: int, size: int) -> None:
    mix = draw_mix("cutmix", 2, size, seed=0, stream=str(draw))
    inputs = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, size, size)
    mix = Mix(torch.tensor([1, 0]), mix.fraction, mix.box)
    assert mix.images(inputs)[0].mean().item() == pytest.approx(mix.fraction, abs=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_draw_follows_seed_and_stream_alone(kind: str) -> None:
    def draw(seed: int, stream: str) -> tuple:
        mix = draw_mix(kind, 64, 32, seed=seed, stream=stream)
        return mix.partner.tolist(), mix.fraction, mix.box

    assert draw(0, "a") == draw(0, "a") != draw(0, "b") and draw(0, "a") != draw(1, "a")
    assert sorted(draw(0, "a")[0]) == list(range(64))


def test_fractions_are_uniform_for_mixup() -> None:
    mixes = [draw_mix("mixup", 2, 32, seed=1, stream=str(step)) for step in range(2000)]
    fractions = [mix.fraction for mix in mixes]
    assert np.mean(fractions) == pytest.approx(0.5, abs=0.03)
    assert np.var(fractions) == pytest.approx(1 / 12, abs=0.006)


def test_a_mix_is_that_of_version_0_1_0() -> None:
    """A run that is resumed must draw what it would have drawn."""
    mix = draw_mix("cutmix", 4, 32, seed=3, stream="mix/1/2")
    assert mix.partner.tolist() == [3, 0, 2, 1]
    # the box ends at pixels 18 and 19: 1 - 18 * 19 / 32²
    assert mix.fraction == 0.666015625
    assert mix.box == (0, 0, 18 / 32, 19 / 32)
