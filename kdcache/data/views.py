"""Views: which part of an image, mirrored or not, a model looks at, and how it becomes its input.

A view is five integers (top, left, height, width, flip) in the image's own pixels, so a stored view
can be replayed at any input size. A crop may reach over the border; what lies outside is the
reflection.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcache.config import VIEW_POLICIES
from kdcache.data.random import philox_from_name
from kdcache.errors import OptionError

VIEW_FIELDS = ("top", "left", "height", "width", "flip")
TOP, LEFT, HEIGHT, WIDTH, FLIP = range(len(VIEW_FIELDS))

ViewPolicy = Callable[[NDArray[np.float64], int, int], NDArray[np.int16]]
"""Draws views from random numbers: `policy(u, height, width)`.

`u` are uniforms float64 `(count, 6)` in [0, 1), height and width the image's in pixels. Returns one
view a row, int16 `(count, 5)`, fields in the order of `VIEW_FIELDS`; a view is no larger than the
image.
"""

_CROP_PADDING = 1 / 8  # of the image's side: the usual 4 pixels at 32
_RESIZED_CROP_AREA = (0.25, 1.0)  # fraction of the image's area
_RESIZED_CROP_RATIO = (3 / 4, 4 / 3)  # width over height, log-uniform


def draw_views(
    policy: str, count: int, height: int, width: int, *, views: int, seed: int, stream: str
) -> NDArray[np.int16]:
    """Draw the view table of `count` images of `height` x `width` pixels.

    View 0 is the whole image; views 1..views-1 are drawn from a counter-based generator (Philox)
    keyed by (seed, stream, view) whose counter is the image's index, so the view of an image
    depends neither on how many images nor on how many views are drawn.

    Returns int16 `(count, views, 5)`, fields in the order of `VIEW_FIELDS`. Raises OptionError
    where there is no such policy, or it draws what cannot be rendered.
    """
    table = np.zeros((count, views, len(VIEW_FIELDS)), np.int16)
    table[:, :, HEIGHT] = height
    table[:, :, WIDTH] = width
    draw: ViewPolicy = VIEW_POLICIES.load(policy)
    if not callable(draw):
        raise OptionError(
            f"--augment {policy} to be callable", type(draw).__name__, "correct the name"
        )
    for view in range(1, views):
        drawn = draw(_uniform(count, 6, seed, f"{stream}/{view}"), height, width)
        _check_views(drawn, policy, table[:, 0])
        table[:, view] = drawn
    return table


def _check_views(drawn: NDArray[np.int16], policy: str, whole: NDArray[np.int16]) -> None:
    """A policy of the user's own may draw anything; the renderer trusts what it is given."""
    if drawn.shape != whole.shape or drawn.dtype != np.int16:
        found = f"{drawn.dtype} {drawn.shape}"
    else:
        sides = drawn[:, [HEIGHT, WIDTH]]
        if np.all((sides >= 1) & (sides <= whole[:, [HEIGHT, WIDTH]])):
            return
        found = f"sides of {sides.min()} to {sides.max()}"
    raise OptionError(
        f"--augment {policy} to draw int16 {whole.shape}, views no larger than the image",
        found,
        "correct the policy",
    )


def whole_image_views(count: int, height: int, width: int) -> Tensor:
    """The views of `count` whole images of `height` x `width` pixels.

    Returns int16 `(count, 5)`, fields in the order of `VIEW_FIELDS`, on the CPU.
    """
    return torch.tensor([[0, 0, height, width, 0]], dtype=torch.int16).repeat(count, 1)


def _uniform(count: int, columns: int, seed: int, stream: str) -> NDArray[np.float64]:
    """Doubles in [0, 1), `(count, columns)`; row i is the same however many rows are drawn."""
    raw = philox_from_name(f"{seed}/{stream}").random_raw(count * columns).reshape(count, columns)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _stack(*fields: NDArray[Any]) -> NDArray[np.int16]:
    """Five columns, each `(count,)`, as int16 `(count, 5)`."""
    return np.stack([np.asarray(field, np.int16) for field in fields], axis=1)


def whole_image(u: NDArray[np.float64], height: int, width: int) -> NDArray[np.int16]:
    """The whole image, as it is."""
    zero = np.zeros(len(u))
    one = np.ones(len(u))
    return _stack(zero, zero, one * height, one * width, zero)


def random_flip(u: NDArray[np.float64], height: int, width: int) -> NDArray[np.int16]:
    """The whole image, mirrored half of the time."""
    views = whole_image(u, height, width)
    views[:, FLIP] = u[:, 0] < 0.5
    return views


def random_crop_and_flip(u: NDArray[np.float64], height: int, width: int) -> NDArray[np.int16]:
    """The image moved by up to an eighth of its side, and mirrored half of the time.

    At 32 pixels this is the usual random crop after a padding of 4.
    """
    views = random_flip(u, height, width)
    views[:, TOP] = _shift(u[:, 1], height)
    views[:, LEFT] = _shift(u[:, 2], width)
    return views


def random_resized_crop(u: NDArray[np.float64], height: int, width: int) -> NDArray[np.int16]:
    """A crop of a quarter to all of the area, aspect 3/4 to 4/3, mirrored half of the time."""
    low, high = _RESIZED_CROP_AREA
    narrow, wide_ratio = _RESIZED_CROP_RATIO
    area = (low + (high - low) * u[:, 3]) * height * width
    ratio = np.exp(np.log(narrow) + u[:, 4] * np.log(wide_ratio / narrow))
    tall = np.clip(np.rint(np.sqrt(area / ratio)), 1, height).astype(int)
    wide = np.clip(np.rint(np.sqrt(area * ratio)), 1, width).astype(int)
    top = np.floor(u[:, 1] * (height - tall + 1))
    left = np.floor(u[:, 2] * (width - wide + 1))
    return _stack(top, left, tall, wide, u[:, 0] < 0.5)


def _shift(u: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Whole pixels, uniform from minus to plus the padding."""
    padding = max(1, round(side * _CROP_PADDING))
    return np.floor(u * (2 * padding + 1)) - padding


_PART = 64 << 20  # bytes of images as float32 that are rendered at a time on a CPU


class Renderer:
    """Turns images and views into a model's input: crop, flip, resize and normalise in one pass.

    The resize has antialiasing and is the one of `torchvision.transforms.Resize` on a tensor. It is
    separable: rows @ image @ columns, with one small matrix an axis that holds crop, flip and
    resize at once.

    Args:
        size: side of the square output in pixels.
        mean, std: of the channels, on the scale [0, 1].
        largest_crop: (height, width) in pixels of the largest view that will be rendered; it fixes
            how many source pixels one output pixel can need, so that no call has to look at the
            views' values.
        interpolation: bilinear or bicubic. A bicubic resize overshoots at edges, and is cut off at
            0 and 255, as it is where images are resized as 8-bit pixels.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        largest_crop: tuple[int, int],
        device: torch.device | str = "cpu",
        interpolation: str = "bilinear",
    ) -> None:
        self.size, self._interpolation = size, interpolation
        support = 2 * _FILTERS[interpolation][0]
        self._taps = tuple(math.ceil(support * max(1.0, side / size)) for side in largest_crop)
        # (x / 255 - mean) / std as one multiply-add
        std64 = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * std64)).float().view(1, -1, 1, 1).to(device)
        mean64 = torch.tensor(mean, dtype=torch.float64)
        self._offset = (-mean64 / std64).float().view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor, views: Tensor) -> Tensor:
        """images uint8 `(B, 3, H, W)`, views integer `(B, 5)` -> float32 `(B, 3, size, size)`."""
        if images.device.type != "cpu":
            return self._render(images, views)
        # in parts: all images of a batch as float32 may take more memory than all else
        step = max(1, _PART // (4 * math.prod(images.shape[1:])))
        parts = zip(images.split(step), views.split(step), strict=True)
        rendered = [self._render(*part) for part in parts]
        return torch.cat(rendered) if len(rendered) > 1 else rendered[0]

    def _render(self, images: Tensor, views: Tensor) -> Tensor:
        top, left, height, width, flip = views.to(torch.float32).unbind(1)
        batch, channels, image_height, image_width = images.shape
        upright = torch.zeros_like(flip)
        size, taps, kind = self.size, self._taps, self._interpolation
        rows = axis_matrix(top, height, upright, image_height, size, taps[0], kind)
        columns = axis_matrix(left, width, flip, image_width, size, taps[1], kind)
        with torch.autocast(images.device.type, enabled=False):
            resized_rows = torch.matmul(rows[:, None], images.to(torch.float32))
            pixels = torch.bmm(resized_rows.view(batch, -1, image_width), columns.transpose(1, 2))
        pixels = pixels.view(batch, channels, self.size, self.size)
        if self._interpolation == "bicubic":
            pixels = pixels.clamp_(0, 255)
        return torch.addcmul(self._offset, pixels, self._scale)


def _triangle(distance: Tensor) -> Tensor:
    """The filter of bilinear resizing."""
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """The filter of bicubic resizing.

    Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, equation 15:
    a = -1/2, as Pillow and torchvision have it with antialiasing.
    """
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


# how far each reaches in source pixels, where the image is not made smaller, and its weights
_FILTERS = {"bilinear": (1, _triangle), "bicubic": (2, _cubic)}


def axis_matrix(
    start: Tensor,
    length: Tensor,
    flip: Tensor,
    extent: int,
    size: int,
    taps: int,
    interpolation: str = "bilinear",
) -> Tensor:
    """The matrices that crop, flip and resize along one axis.

    For a crop of `length` pixels shown as `size`, output j looks at the centre
    (j + 0.5) * length / size, through a filter that is stretched by max(1, length / size), inside
    the crop only.

    Args:
        start, length, flip: float32 `(B,)`, the crop along this axis in pixels, and 1 where it is
            mirrored.
        extent: the image's side in pixels along this axis.
        taps: how many source pixels an output pixel can need,
            ceil(2 * reach * max(1, length / size)).

    Returns float32 `(B, size, extent)`; each row sums to 1.
    """
    position = torch.arange(size, device=start.device, dtype=torch.float32)
    position = torch.where(flip[:, None] > 0, size - 1 - position, position)
    scale = (length / size)[:, None]
    reach, weights = _FILTERS[interpolation]
    stretch = scale.clamp(min=1.0)
    centre = (position + 0.5) * scale
    first = torch.floor(centre - reach * stretch + 0.5)
    source = first[:, :, None] + torch.arange(taps, device=start.device, dtype=torch.float32)
    weight = weights((source + 0.5 - centre[:, :, None]).abs() / stretch[:, :, None])
    weight = weight * ((source >= 0) & (source < length[:, None, None]))
    weight = weight / weight.sum(dim=2, keepdim=True)
    column = _reflect(source + start[:, None, None], extent).to(torch.int64)
    return weight.new_zeros(len(start), size, extent).scatter_add_(2, column, weight)


def _reflect(index: Tensor, extent: int) -> Tensor:
    """-1 -> 1, extent -> extent - 2: the border pixel is not repeated. Clamped for a tiny image."""
    index = index.abs()
    return (extent - 1 - (extent - 1 - index).abs()).clamp(min=0)
