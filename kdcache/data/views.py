"""Views: which part of an image, mirrored or not, a model looks at, and how it becomes its input.

A view is five integers (top, left, height, width, flip) in the image's own pixels, so a stored view can
be replayed at any input size. A crop may reach over the border; what lies outside is the reflection.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdcache.config import VIEW_POLICIES
from kdcache.data.random import philox_from_name

VIEW_FIELDS = ("top", "left", "height", "width", "flip")
TOP, LEFT, HEIGHT, WIDTH, FLIP = range(len(VIEW_FIELDS))

ViewPolicy = Callable[[np.ndarray, int, int], np.ndarray]
"""Uniforms float64 `(count, 6)` in [0, 1), height and width in pixels -> one view a row, int16 `(count, 5)`."""


_CROP_PADDING = 1 / 8  # of the image's side: the usual 4 pixels at 32
_RESIZED_CROP_AREA = (0.25, 1.0)  # share of the image's area
_RESIZED_CROP_RATIO = (3 / 4, 4 / 3)  # width over height, log-uniform


def draw_views(
    policy: str, count: int, height: int, width: int, *, views: int, seed: int, stream: str
) -> np.ndarray:
    """Draw the view table of `count` images of `height` x `width` pixels.

    View 0 is the whole image; views 1..views-1 are drawn from a counter-based generator (Philox) keyed by
    (seed, stream, view) whose counter is the image's index, so the view of an image depends neither on how
    many images nor on how many views are drawn.

    Returns int16 `(count, views, 5)`, fields in the order of `VIEW_FIELDS`.
    """
    table = np.zeros((count, views, len(VIEW_FIELDS)), np.int16)
    table[:, :, HEIGHT], table[:, :, WIDTH] = height, width
    draw: ViewPolicy = VIEW_POLICIES.load(policy)
    for view in range(1, views):
        table[:, view] = draw(_uniform(count, 6, seed, f"{stream}/{view}"), height, width)
    return table


def whole_image_views(count: int, height: int, width: int) -> Tensor:
    """The view of the whole image, as it is, once for each of `count` images of `height` x `width` pixels.

    Returns int16 `(count, 5)`, fields in the order of `VIEW_FIELDS`, on the CPU.
    """
    return torch.tensor([[0, 0, height, width, 0]], dtype=torch.int16).repeat(count, 1)


def _uniform(count: int, columns: int, seed: int, stream: str) -> np.ndarray:
    """Doubles in [0, 1), `(count, columns)`; row i is the same however many rows are drawn."""
    raw = philox_from_name(f"{seed}/{stream}").random_raw(count * columns).reshape(count, columns)
    return (raw >> np.uint64(11)) * 2.0**-53


def _stack(*fields: np.ndarray) -> np.ndarray:
    """Five columns, each `(count,)`, as int16 `(count, 5)`."""
    return np.stack([np.asarray(field, np.int16) for field in fields], axis=1)


def whole_image(u: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image, as it is."""
    still, full = np.zeros(len(u)), np.ones(len(u))
    return _stack(still, still, full * height, full * width, still)


def random_flip(u: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image, mirrored half of the time."""
    views = whole_image(u, height, width)
    views[:, FLIP] = u[:, 0] < 0.5
    return views


def random_crop_and_flip(u: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image moved by up to an eighth of its side and mirrored half of the time: the usual padding of 4 at 32 pixels."""
    views = random_flip(u, height, width)
    views[:, TOP], views[:, LEFT] = _shift(u[:, 1], height), _shift(u[:, 2], width)
    return views


def random_resized_crop(u: np.ndarray, height: int, width: int) -> np.ndarray:
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


def _shift(u: np.ndarray, side: int) -> np.ndarray:
    padding = max(1, round(side * _CROP_PADDING))
    return np.floor(u * (2 * padding + 1)) - padding


class Renderer:
    """Turns images and views into a model's input: crop, flip, resize and normalise in one pass.

    The resize is bilinear with antialiasing, the one of `torchvision.transforms.Resize` on a tensor. It is
    separable: rows @ image @ columns, with one small matrix an axis that holds crop, flip and resize at once.

    Args:
        size: side of the square output in pixels.
        mean, std: of the channels, on the scale [0, 1].
        largest_crop: (height, width) in pixels of the largest view that will be rendered; it fixes how many
            source pixels one output pixel can need, so that no call has to look at the views' values.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        largest_crop: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        self._taps = tuple(math.ceil(2 * max(1.0, side / size)) for side in largest_crop)
        # (x / 255 - mean) / std as one multiply-add
        std64 = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * std64)).float().view(1, -1, 1, 1).to(device)
        self._offset = (
            (-torch.tensor(mean, dtype=torch.float64) / std64).float().view(1, -1, 1, 1).to(device)
        )

    def __call__(self, images: Tensor, views: Tensor) -> Tensor:
        """images uint8 `(B, 3, H, W)`, views integer `(B, 5)` -> float32 `(B, 3, size, size)`."""
        top, left, height, width, flip = views.to(torch.float32).unbind(1)
        batch, channels, image_height, image_width = images.shape
        rows = axis_matrix(
            top, height, torch.zeros_like(flip), image_height, self.size, self._taps[0]
        )
        columns = axis_matrix(left, width, flip, image_width, self.size, self._taps[1])
        with torch.autocast(images.device.type, enabled=False):
            resized_rows = torch.matmul(rows[:, None], images.to(torch.float32))
            pixels = torch.bmm(resized_rows.view(batch, -1, image_width), columns.transpose(1, 2))
        return torch.addcmul(
            self._offset, pixels.view(batch, channels, self.size, self.size), self._scale
        )


def axis_matrix(
    start: Tensor, length: Tensor, flip: Tensor, extent: int, size: int, taps: int
) -> Tensor:
    """The matrices that crop, flip and resize along one axis.

    The triangle filter of bilinear resizing: for a crop of `length` pixels shown as `size`, output j looks at
    the centre (j + 0.5) * length / size, with radius max(1, length / size), inside the crop only.

    Args:
        start, length, flip: float32 `(B,)`, the crop along this axis in pixels, and 1 where it is mirrored.
        extent: the image's side in pixels along this axis.
        taps: how many source pixels an output pixel can need, ceil(2 * max(1, length / size)).

    Returns float32 `(B, size, extent)`; each row sums to 1.
    """
    position = torch.arange(size, device=start.device, dtype=torch.float32)
    position = torch.where(flip[:, None] > 0, size - 1 - position, position)
    scale = (length / size)[:, None]
    radius = scale.clamp(min=1.0)
    centre = (position + 0.5) * scale
    first = torch.floor(centre - radius + 0.5)
    source = first[:, :, None] + torch.arange(taps, device=start.device, dtype=torch.float32)
    weight = (1 - (source + 0.5 - centre[:, :, None]).abs() / radius[:, :, None]).clamp(min=0)
    weight = weight * ((source >= 0) & (source < length[:, None, None]))
    weight = weight / weight.sum(dim=2, keepdim=True)
    matrix = weight.new_zeros(len(start), size, extent)
    return matrix.scatter_add_(
        2, _reflect(source + start[:, None, None], extent).to(torch.int64), weight
    )


def _reflect(index: Tensor, extent: int) -> Tensor:
    """-1 -> 1, extent -> extent - 2: the border pixel is not repeated. Clamped where an image is tiny."""
    index = index.abs()
    return (extent - 1 - (extent - 1 - index).abs()).clamp(min=0)
