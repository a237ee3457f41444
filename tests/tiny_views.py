"""View policies of a user's own, reached as 'tiny_views:left_half'; some that draw nonsense."""

import numpy as np
from numpy.typing import NDArray

Views = NDArray[np.int16]
Uniforms = NDArray[np.float64]


def _all(u: Uniforms, *view: int) -> Views:
    return np.tile(np.array(view, np.int16), (len(u), 1))


def left_half(u: Uniforms, height: int, width: int) -> Views:
    return _all(u, 0, 0, height, width // 2, 0)


def random_row(u: Uniforms, height: int, width: int) -> Views:
    views = _all(u, 0, 0, 1, width, 0)
    views[:, 0] = u[:, 3] * height
    return views


def one_view(u: Uniforms, height: int, width: int) -> Views:
    return _all(u, 0, 0, height, width, 0)[0]


def in_floats(u: Uniforms, height: int, width: int) -> NDArray[np.float64]:
    return _all(u, 0, 0, height, width, 0) * 1.0


def too_high(u: Uniforms, height: int, width: int) -> Views:
    return _all(u, 0, 0, height + 1, width, 0)


def empty(u: Uniforms, height: int, width: int) -> Views:
    return _all(u, 0, 0, 0, 0, 0)
