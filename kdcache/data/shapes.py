"""`shapes`: a small image dataset that is drawn, not downloaded.

Every image is 32 x 32 RGB and shows one of 10 shapes, in one of 10 colours and 10 textures, on a
cluttered ground. The *fine* label names all three (1000 classes, `shape * 100 + colour * 10 +
texture`), the *coarse* one the shape (`fine // 100`). No shape is chiral and every random angle is
drawn symmetrically, so a mirrored image keeps its class.

Image `i` is a pure function of `(seed, stream, i)`: it owns row `i` of one Philox stream, whose raw
output NumPy guarantees never to change. Lengths are in pixels, or in *shape units* (the shape's
radius, y upwards) where said.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcache.data.random import philox_from_name

Plane = NDArray[np.floating[Any]]
"""float32, one number per pixel, `(n, 32, 32)`, or per image, `(n, 1, 1)`."""

SIDE = 32
_RGB = {
    "red": (0.86, 0.16, 0.16),
    "orange": (0.96, 0.53, 0.12),
    "yellow": (0.97, 0.85, 0.20),
    "lime": (0.64, 0.86, 0.22),
    "green": (0.13, 0.52, 0.22),
    "teal": (0.16, 0.72, 0.72),
    "blue": (0.16, 0.34, 0.84),
    "purple": (0.48, 0.20, 0.66),
    "pink": (0.96, 0.52, 0.72),
    "white": (0.96, 0.95, 0.92),
}
COLOURS = tuple(_RGB)
_PALETTE = np.array(list(_RGB.values()), dtype=np.float32)
_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)  # ITU-R BT.601
# images drawn together; a multiple of 10, and few enough for a plane (400 kB) to stay in cache
_CHUNK = 100
_DRAWS = 96  # 64-bit words an image may use for its parameters
_NOISE = 3 * SIDE * SIDE // 8  # 64-bit words for its noise, a byte per value


def fine_class_names() -> tuple[str, ...]:
    """The 1000 names, such as "red striped star"; the index is the fine label."""
    names = itertools.product(SHAPES, COLOURS, TEXTURES)
    return tuple(f"{colour} {texture} {shape}" for shape, colour, texture in names)


def coarse_class_names() -> tuple[str, ...]:
    """The 10 shapes; the index is the coarse label, `fine // 100`."""
    return SHAPES


def render_shapes(
    count: int, *, stream: str, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the first `count` images of a stream.

    The first n images of a longer rendering equal a rendering of n.

    Args:
        count: number of images, 0 or more.
        stream: a name such as "fine/train"; streams of different names share no random numbers.
        seed: selects another dataset of the same kind.

    Returns images uint8 `(count, 3, 32, 32)` and fine labels int64 `(count,)`; image i shows the
    shape i % 10. Raises ValueError where `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, found {count}")
    generator = philox_from_name(f"shapes/{seed}/{stream}")
    images = np.empty((count, 3, SIDE, SIDE), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for start in range(0, count, _CHUNK):
        # the last chunk is drawn whole, too: arrays of one size always take the same SIMD path
        chunk = slice(start, min(start + _CHUNK, count))
        chunk_images, chunk_labels = _render_chunk(generator.random_raw(_CHUNK * (_DRAWS + _NOISE)))
        images[chunk] = chunk_images[: chunk.stop - start]
        labels[chunk] = chunk_labels[: chunk.stop - start]
    return images, labels


class _Dice:
    """Hands out an image's random words; the order of the calls is the meaning of the words."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._unit = (words >> np.uint64(11)) * 2.0**-53
        self._next = 0

    def uniform(self, low: float, high: float, channels: int = 1) -> Plane:
        """Uniform in [low, high): `(n, 1, 1)`, or `(n, channels, 1, 1)` for several channels."""
        columns = self._unit[:, self._next : self._next + channels, None]
        self._next += channels
        values = (low + (high - low) * columns).astype(np.float32)
        return values if channels == 1 else values[..., None]

    def integer(self, stop: int) -> NDArray[np.int64]:
        """Uniform in 0..stop-1, `(n,)`."""
        self._next += 1
        return (self._unit[:, self._next - 1] * stop).astype(np.int64)


def _render_chunk(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw one chunk from its random words: ground, distractors, shape, occluder, light, noise."""
    words = words.reshape(_CHUNK, _DRAWS + _NOISE)
    dice = _Dice(words[:, :_DRAWS])
    shape = np.arange(_CHUNK) % len(SHAPES)
    colour = dice.integer(len(COLOURS))
    texture = dice.integer(len(TEXTURES))
    y, x = (axis[None].astype(np.float32) - (SIDE - 1) / 2 for axis in np.mgrid[:SIDE, :SIDE])

    brightness = dice.uniform(0.85, 1.1)[:, None]
    paint = _PALETTE[colour][..., None, None] * brightness + dice.uniform(-0.06, 0.06, 3)
    luma = (paint[..., 0, 0] @ _LUMA)[:, None, None]
    image = _ground(dice, x, y, luma)
    for _ in range(2):
        _over(image, dice.uniform(0.05, 0.95, 3), _stroke(dice, x, y))

    radius = dice.uniform(11, 14)
    angle = dice.uniform(-0.25, 0.25)
    right = x - dice.uniform(-3, 3)
    up = dice.uniform(-3, 3) - y
    cos = np.cos(angle) / radius
    sin = np.sin(angle) / radius
    x_shape = cos * right - sin * up
    y_shape = sin * right + cos * up
    distance = shape_distance(shape, x_shape, y_shape)
    tone = _texture_tone(dice, texture, x_shape, y_shape, distance)
    # The second tone is the first moved away from its own brightness, so that it always shows.
    accent = np.where(luma > 0.45, 0.65 * paint[..., 0], 0.3 + 0.7 * paint[..., 0])[..., None]
    _over(image, paint + tone[:, None] * (accent - paint), _coverage(distance * radius))
    _over(image, dice.uniform(0.05, 0.95, 3), _stroke(dice, x, y))

    light = 1 + dice.uniform(-0.02, 0.02) * x + dice.uniform(-0.02, 0.02) * y
    noise = words[:, _DRAWS:].copy().view(np.uint8).reshape(image.shape)
    noise = noise / np.float32(255) - np.float32(0.5)
    image = image * light[:, None] + dice.uniform(0.02, 0.12)[:, None] * noise
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), shape * 100 + colour * 10 + texture


def _ground(dice: _Dice, x: Plane, y: Plane, luma: Plane) -> Plane:
    """A rippled gradient between two muted tints, `(n, 3, 32, 32)`.

    Its brightness is some way from the shape's.
    """
    level = (luma + dice.uniform(0.3, 0.7)) % 1
    turn = dice.uniform(-math.pi, math.pi)
    pitch = dice.uniform(0.15, 0.9)
    along = np.cos(turn) * x + np.sin(turn) * y
    ripple = dice.uniform(0, 0.08) * np.sin(pitch * along + dice.uniform(-math.pi, math.pi))
    first = dice.uniform(-0.2, 0.2, 3)
    second = dice.uniform(-0.2, 0.2, 3)
    blend = (0.5 + along / (SIDE * math.sqrt(2)))[:, None]
    return (level + ripple)[:, None] + first + blend * (second - first)


def _stroke(dice: _Dice, x: Plane, y: Plane) -> Plane:
    """The coverage of a random segment with round ends, long and thin or short and fat."""
    turn = dice.uniform(-math.pi, math.pi)
    x_centre = dice.uniform(-16, 16)
    y_centre = dice.uniform(-16, 16)
    length = dice.uniform(0, 9)
    along = np.cos(turn) * (x - x_centre) + np.sin(turn) * (y - y_centre)
    across = np.cos(turn) * (y - y_centre) - np.sin(turn) * (x - x_centre)
    beyond = np.maximum(np.abs(along) - length, 0)
    return _coverage(np.hypot(beyond, across) - dice.uniform(0.5, 2.0) * 4 / (length + 2))


def _over(image: Plane, paint: Plane, coverage: Plane) -> None:
    """Lay `paint` over `image` in place, both `(n, 3, ...)`, as far as `coverage` `(n, 32, 32)`."""
    image += coverage[:, None] * (paint - image)


def _coverage(distance: Plane) -> Plane:
    """The fraction of a pixel inside an edge at a signed distance in pixels (a box filter)."""
    return np.clip(0.5 - distance, 0, 1)


def shape_distance(shape: NDArray[np.int64], x: Plane, y: Plane) -> Plane:
    """Signed distance to each image's shape, in shape units, negative inside.

    It is exact or, far from sharp corners, a lower bound: enough for an edge of one pixel.

    Args:
        shape: index into `SHAPES`, `(n,)`.
        x, y: shape units, `(n, h, w)`, y upwards.
    """
    distance = np.empty_like(x)
    for index, name in enumerate(SHAPES):
        rows = shape == index
        distance[rows] = _DISTANCES[name](x[rows], y[rows])
    return distance


def _disc(x: Plane, y: Plane, radius: float) -> Plane:
    return np.hypot(x, y) - radius


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _triangle(x: Plane, y: Plane) -> Plane:
    """Equilateral, tip up, of circumradius 1."""
    return np.maximum(math.sqrt(0.75) * np.abs(x) + 0.5 * y, -y) - 0.5


def _star(x: Plane, y: Plane) -> Plane:
    """Five tips at radius 1, five notches at 0.45; in half a sector, its edge is a line."""
    sector = 2 * math.pi / 5
    angle = np.abs((np.arctan2(x, y) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    rise = 0.45 * math.sin(sector / 2)  # from the tip (1, 0) to the notch
    run = 1 - 0.45 * math.cos(sector / 2)
    across = rise * (radius * np.cos(angle) - 1) + run * radius * np.sin(angle)
    return across / math.hypot(rise, run)


def _heart(x: Plane, y: Plane) -> Plane:
    """A square of half-side 0.58, on its corner, and a disc about the middle of each upper side."""
    half = 0.58
    root = math.sqrt(0.5)
    x = np.abs(x)
    y = y + 0.08
    return np.minimum(root * (x + np.abs(y)) - half, _disc(x - half * root, y - half * root, half))


def _crescent(x: Plane, y: Plane) -> Plane:
    """A disc of radius 0.9 less one of 0.72 that stands 0.45 higher."""
    return np.maximum(_disc(x, y, 0.9), -_disc(x, y - 0.45, 0.72))


def _drop(x: Plane, y: Plane) -> Plane:
    """A disc of radius 0.62 about (0, -0.35) and its two tangents from the tip (0, 1)."""
    sin = 0.62 / 1.35  # of half the angle at the tip
    cone = np.maximum(math.sqrt(1 - sin * sin) * np.abs(x) + sin * (y - 1), 0.62 * sin - 0.35 - y)
    return np.minimum(_disc(x, y + 0.35, 0.62), cone)


def _arrow(x: Plane, y: Plane) -> Plane:
    """A right-angled head from (0, 0.95) to y = 0.05, on a shaft of width 0.5 down to y = -0.9."""
    head = np.maximum(math.sqrt(0.5) * (np.abs(x) + y - 0.95), 0.05 - y)
    return np.minimum(head, _box(x, y + 0.4, 0.25, 0.5))


_DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": lambda x, y: _disc(x, y, 0.85),
    "ring": lambda x, y: np.abs(_disc(x, y, 0.7)) - 0.22,
    "square": lambda x, y: _box(x, y, 0.72, 0.72),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "crescent": _crescent,
    "drop": _drop,
    "arrow": _arrow,
}
SHAPES = tuple(_DISTANCES)


def _texture_tone(
    dice: _Dice, texture: NDArray[np.int64], x: Plane, y: Plane, distance: Plane
) -> Plane:
    """How far each pixel goes from the first tone (0) to the second (1), `(n, 32, 32)`.

    Lengths are in shape units.
    """
    pitch = dice.uniform(8.5, 10)
    u = pitch * x + dice.uniform(-math.pi, math.pi)
    v = pitch * y + dice.uniform(-math.pi, math.pi)
    tone = np.empty_like(x)
    for index, name in enumerate(TEXTURES):
        rows = texture == index
        wave = _WAVES[name](u[rows], v[rows], x[rows], y[rows], distance[rows])
        tone[rows] = np.clip(0.5 + 1.5 * wave, 0, 1)
    return tone


_WAVES: dict[str, Callable[[Plane, Plane, Plane, Plane, Plane], Plane]] = {
    "plain": lambda u, v, x, y, d: np.full_like(x, -1),
    "striped": lambda u, v, x, y, d: np.sin(u),
    "checked": lambda u, v, x, y, d: 1.5 * np.sin(u * 0.75) * np.sin(v * 0.75),
    "dotted": lambda u, v, x, y, d: np.cos(u) + np.cos(v) - 0.9,
    "netted": lambda u, v, x, y, d: np.maximum(np.cos(u), np.cos(v)) - 0.75,
    "ringed": lambda u, v, x, y, d: np.sin(11 * np.hypot(x, y)),
    "rayed": lambda u, v, x, y, d: np.sin(8 * np.arctan2(x, y)),
    "wavy": lambda u, v, x, y, d: np.sin(v + 1.5 * np.sin(u * 0.5)),
    "rimmed": lambda u, v, x, y, d: 5 * (d + 0.18),
    "shaded": lambda u, v, x, y, d: 0.6 * y,
}
TEXTURES = tuple(_WAVES)
