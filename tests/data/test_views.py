"""Views: the renderer against torchvision and pixels by hand, the table against its promises."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from kdcache.config import INTERPOLATIONS, VIEW_POLICIES
from kdcache.data import views
from kdcache.data.views import Renderer, axis_matrix, draw_views, whole_image_views
from kdcache.errors import OptionError

RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}  # pixels / 255
PIXELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # pixels as they are


def noise(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def torchvision_render(
    image: torch.Tensor, view: tuple[int, ...], size: int, interpolation: str
) -> torch.Tensor:
    """Reflect far enough, cut out, mirror, resize: one step after another."""
    top, left, height, width, flip = view
    padding = 4
    padded = torch.from_numpy(
        np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), "reflect")
    )
    crop = tv.crop(padded, top + padding, left + padding, height, width).float() / 255
    upright, mode = tv.horizontal_flip(crop) if flip else crop, InterpolationMode(interpolation)
    return tv.resize(upright, [size, size], mode, antialias=True).clamp(0, 1)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("height", "width", "size", "view"),
    [
        (32, 32, 224, (0, 0, 32, 32, 0)),
        (32, 32, 224, (0, 0, 32, 32, 1)),
        (32, 32, 32, (0, 0, 32, 32, 1)),
        (64, 64, 24, (0, 0, 64, 64, 0)),
        (50, 70, 32, (0, 0, 50, 70, 1)),
        (32, 32, 48, (5, 2, 11, 23, 0)),
        (40, 40, 16, (3, 1, 36, 20, 1)),
        (32, 32, 40, (-4, 4, 32, 32, 0)),
        (32, 32, 20, (4, -3, 32, 32, 1)),
        (7, 9, 5, (-1, 2, 7, 9, 1)),
    ],
)
def test_renders_what_torchvision_crops_mirrors_and_resizes(
    height: int, width: int, size: int, view: tuple[int, ...], interpolation: str
) -> None:
    images = noise(2, height, width)
    render = Renderer(size, **RAW, largest_crop=(height, width), interpolation=interpolation)
    rendered = render(images, torch.tensor([view, view]))
    expected = torch.stack(
        [torchvision_render(image, view, size, interpolation) for image in images]
    )
    assert rendered.dtype == torch.float32
    torch.testing.assert_close(rendered, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_whole_image_at_its_own_size_is_rendered_to_the_bit(interpolation: str) -> None:
    images = noise(3, 17, 17)
    render = Renderer(17, **PIXELS, largest_crop=(17, 17), interpolation=interpolation)
    rendered = render(images, torch.tensor([[0, 0, 17, 17, 0]] * 3))
    assert torch.equal(rendered, images.float())


def test_upscales_two_by_two_as_by_hand() -> None:
    # Output j of 4 looks at (j + 0.5) / 2 = 0.25, 0.75, 1.25, 1.75; the sources lie at 0.5 and 1.5.
    # Weights: (1, 0), (3/4, 1/4), (1/4, 3/4), (0, 1). Rows first: (0 100) (50 85) (150 55) (200
    # 40); then columns alike.
    image = torch.tensor([[0, 100], [200, 40]], dtype=torch.uint8).expand(1, 3, 2, 2)
    rendered = Renderer(4, **PIXELS, largest_crop=(2, 2))(image, torch.tensor([[0, 0, 2, 2, 0]]))
    expected = [
        [0, 25, 75, 100],
        [50, 58.75, 76.25, 85],
        [150, 126.25, 78.75, 55],
        [200, 160, 80, 40],
    ]
    assert rendered[0, 2].tolist() == expected


def test_mean_and_std_are_those_of_each_channel() -> None:
    # pixel 51 is 0.2: (0.2 - 0) / 1, (0.2 - 0.1) / 0.5, (0.2 - 0.4) / 0.25
    image = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    render = Renderer(2, (0.0, 0.1, 0.4), (1.0, 0.5, 0.25), (2, 2))
    assert render(image, torch.tensor([[0, 0, 2, 2, 0]]))[0, :, 0, 0].tolist() == pytest.approx(
        [0.2, 0.2, -0.8], abs=1e-6
    )


@pytest.mark.parametrize(
    ("start", "flip", "sources"),
    [
        (0, 0, [0, 1, 2, 3]),
        (-2, 0, [2, 1, 0, 1]),  # -1 -> 1 and -2 -> 2: the border pixel is not repeated
        (-2, 1, [1, 0, 1, 2]),
        (1, 0, [1, 2, 3, 2]),  # 4 -> 2
    ],
)
def test_reflects_at_the_border_as_by_hand(start: int, flip: int, sources: list[int]) -> None:
    matrix = axis_matrix(
        *torch.tensor([[float(start)], [4.0], [float(flip)]]), extent=4, size=4, taps=2
    )
    assert matrix[0].tolist() == torch.eye(4)[sources].tolist()


@given(
    extent=st.integers(1, 40),
    size=st.integers(1, 40),
    flip=st.integers(0, 1),
    fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_output_pixel_is_a_weighted_mean(
    extent: int, size: int, flip: int, fractions: tuple[float, float]
) -> None:
    length = 1 + int(fractions[0] * (extent - 1))
    start = -3 + int(fractions[1] * (extent - length + 6))
    taps = int(np.ceil(2 * max(1.0, extent / size)))
    matrix = axis_matrix(
        *torch.tensor([[float(start)], [float(length)], [float(flip)]]),
        extent=extent,
        size=size,
        taps=taps,
    )
    assert matrix.shape == (1, size, extent)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(2), torch.ones(1, size), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "size"), [(32, 224), (32, 32), (48, 20)])
def test_a_row_is_rendered_to_the_same_bits_alone_and_in_any_batch(side: int, size: int) -> None:
    images = noise(9, side, side)
    views = torch.from_numpy(
        draw_views("crop-flip", 9, side, side, views=2, seed=0, stream="test")[:, 1]
    )
    render = Renderer(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (side, side))
    together = render(images, views)
    for count in (1, 2, 4):
        for first in range(0, 9 - count):
            part = slice(first, first + count)
            assert torch.equal(render(images[part], views[part]), together[part])


POLICY = st.sampled_from(list(VIEW_POLICIES))


@pytest.mark.parametrize("part", [1, 4 * 3 * 12 * 12 * 2])
def test_a_batch_in_parts_has_the_same_bits(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image at a time, and two; 7 images at once fit the usual parts."""
    images, render = noise(7, 12, 12), Renderer(8, (0.5,) * 3, (0.2,) * 3, (12, 12))
    drawn = torch.from_numpy(draw_views("crop-flip", 7, 12, 12, views=2, seed=0, stream="s")[:, 1])
    whole = render(images, drawn)
    monkeypatch.setattr(views, "_PART", part)
    assert torch.equal(render(images, drawn), whole)


def test_view_0_is_the_whole_image() -> None:
    for policy in VIEW_POLICIES:
        table = draw_views(policy, 5, 20, 30, views=3, seed=1, stream="train")
        assert table.dtype == np.int16 and table.shape == (5, 3, 5)
        assert (table[:, 0] == (0, 0, 20, 30, 0)).all()


def test_whole_image_views_are_view_0_of_every_image() -> None:
    views = whole_image_views(3, 20, 30)
    assert views.dtype == torch.int16 and views.tolist() == [[0, 0, 20, 30, 0]] * 3
    table = draw_views("flip", 3, 20, 30, views=2, seed=1, stream="train")
    assert torch.equal(views, torch.from_numpy(table[:, 0]))
    assert whole_image_views(0, 20, 30).shape == (0, 5)


@given(
    POLICY,
    st.integers(0, 20),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(0, 3),
    st.integers(0, 2**40),
)
def test_a_view_depends_neither_on_how_many_images_nor_on_how_many_views(
    policy: str, count: int, views: int, more: int, more_views: int, seed: int
) -> None:
    few = draw_views(policy, count, 24, 32, views=views, seed=seed, stream="train")
    many = draw_views(
        policy, count + more, 24, 32, views=views + more_views, seed=seed, stream="train"
    )
    assert (many[:count, :views] == few).all()


def test_uniforms_are_those_of_numpys_philox_under_the_documented_key() -> None:
    key = np.frombuffer(hashlib.sha256(b"7/train/2").digest()[:16], "<u8")
    uniform = np.random.Generator(np.random.Philox(key=key)).random((50, 6))
    drawn = draw_views("flip", 50, 8, 8, views=3, seed=7, stream="train")[:, 2, 4]
    assert (drawn == (uniform[:, 0] < 0.5)).all()


@pytest.mark.parametrize(
    ("policy", "free"),
    [("none", []), ("flip", [4]), ("crop-flip", [0, 1, 4]), ("resized-crop", range(5))],
)
def test_a_policy_varies_its_own_fields_only(policy: str, free: list[int]) -> None:
    table = draw_views(policy, 500, 32, 32, views=2, seed=0, stream="train")
    assert [
        field for field in range(5) if (table[:, 1, field] != table[0, 0, field]).any()
    ] == list(free)


def test_crop_flip_moves_by_up_to_an_eighth_of_the_side() -> None:
    views = draw_views("crop-flip", 3000, 32, 64, views=2, seed=0, stream="train")[:, 1]
    assert set(views[:, 0]) == set(range(-4, 5)) and set(views[:, 1]) == set(range(-8, 9))
    # each of the nine shifts is drawn about 3000 / 9 = 333 times (standard deviation 17)
    assert np.bincount(views[:, 0] + 4).min() > 333 - 5 * 17


def test_resized_crop_keeps_inside_the_image_with_the_documented_area_and_ratio() -> None:
    top, left, height, width, _ = draw_views(
        "resized-crop", 3000, 32, 32, views=2, seed=0, stream="train"
    )[:, 1].T
    assert (
        min(top.min(), left.min()) == 0
        and (top + height).max() == 32
        and (left + width).max() == 32
    )
    # sides are rounded to whole pixels, hence the halves
    assert ((height + 0.5) * (width + 0.5) >= 0.25 * 32 * 32).all()
    assert ((width - 0.5) / (height + 0.5) <= 4 / 3).all() and (
        (width + 0.5) / (height - 0.5) >= 3 / 4
    ).all()
    assert (height * width).max() > 0.95 * 32 * 32


@given(POLICY, st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_views_of_tiny_images_can_be_rendered(
    policy: str, height: int, width: int, seed: int
) -> None:
    views = draw_views(policy, 4, height, width, views=2, seed=seed, stream="train")[:, 1]
    rendered = Renderer(4, **RAW, largest_crop=(height, width))(
        noise(4, height, width), torch.from_numpy(views)
    )
    assert ((rendered >= 0) & (rendered <= 1 + 1e-6)).all()


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "test"}], ids=str)
def test_seed_and_stream_draw_other_views(other: dict[str, object]) -> None:
    arguments = {"views": 2, "seed": 0, "stream": "train"}
    one, two = (
        draw_views("crop-flip", 50, 32, 32, **(arguments | change))[:, 1] for change in ({}, other)
    )
    assert (one != two).any(axis=1).mean() > 0.8


def test_two_views_of_an_image_differ() -> None:
    table = draw_views("crop-flip", 50, 32, 32, views=3, seed=0, stream="train")
    assert (table[:, 1] != table[:, 2]).any(axis=1).mean() > 0.8


@pytest.mark.parametrize("policy", ["flip", "crop-flip", "resized-crop"])
def test_half_of_the_views_are_mirrored(policy: str) -> None:
    flips = draw_views(policy, 4000, 32, 32, views=2, seed=3, stream="train")[:, 1, 4]
    assert abs(flips.mean() - 0.5) < 0.04  # five standard deviations of 0.5 / sqrt(4000)


def test_an_unknown_policy() -> None:
    with pytest.raises(OptionError) as error:
        draw_views("upside-down", 1, 8, 8, views=2, seed=0, stream="train")
    assert str(error.value) == (
        "expected --augment to be one of none, flip, crop-flip, resized-crop, or"
        " package.module:name; found --augment upside-down; correct the name"
    )


DIGESTS = {
    "none": "71a7624fa1dd02e5",
    "flip": "2c1399d6211f32a3",
    "crop-flip": "7b51d91ad402c5fe",
    "resized-crop": "891fa525f3282497",
}


@pytest.mark.parametrize(("policy", "digest"), DIGESTS.items())
def test_views_are_those_of_version_0_1_0(policy: str, digest: str) -> None:
    """Caches hold the views that were drawn: a change here would make every one of them stale."""
    table = draw_views(policy, 200, 32, 48, views=4, seed=7, stream="train")
    assert hashlib.sha256(table.tobytes()).hexdigest()[:16] == digest


class TestAPolicyOfTheUsersOwn:
    def test_it_is_named_by_where_it_is_defined(self) -> None:
        table = draw_views("tiny_views:left_half", 3, 8, 10, views=3, seed=0, stream="train")
        assert table[:, 0].tolist() == [[0, 0, 8, 10, 0]] * 3
        assert table[:, 1:].tolist() == [[[0, 0, 8, 5, 0]] * 2] * 3

    def test_its_random_numbers_are_those_of_each_image(self) -> None:
        few, many = (
            draw_views("tiny_views:random_row", count, 8, 10, views=2, seed=0, stream="train")
            for count in (3, 20)
        )
        assert (few == many[:3]).all()
        assert len(set(many[:, 1, 0])) > 1

    def test_a_name_of_something_else(self) -> None:
        with pytest.raises(OptionError) as error:
            draw_views("math:pi", 3, 8, 10, views=2, seed=0, stream="train")
        assert str(error.value) == (
            "expected --augment math:pi to be callable; found float; correct the name"
        )

    @pytest.mark.parametrize(
        ("policy", "found"),
        [
            ("one_view", "int16 (5,)"),
            ("in_floats", "float64 (3, 5)"),
            ("too_high", "sides of 9 to 10"),
            ("empty", "sides of 0 to 0"),
        ],
    )
    def test_what_cannot_be_rendered_is_refused(self, policy: str, found: str) -> None:
        with pytest.raises(OptionError) as error:
            draw_views(f"tiny_views:{policy}", 3, 8, 10, views=2, seed=0, stream="train")
        assert str(error.value) == (
            f"expected --augment tiny_views:{policy} to draw int16 (3, 5),"
            f" views no larger than the image; found {found}; correct the policy"
        )
