"""Text is cut to the room that it has."""

import warnings

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from pictures import LONG_NAME

from kdcache.report.plot_style import FONT, fit_text


@given(st.text(st.characters(codec="latin-1"), max_size=80), st.booleans())
def test_texts_are_cut_to_the_room_they_have(text: str, keep_end: bool) -> None:
    font = FontProperties(family=FONT, size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font does not have
        fitted = fit_text(text, 1.0, 8, keep_end=keep_end)
        width, _, _ = text_to_path.get_text_width_height_descent(fitted, font, ismath=False)
    assert width <= 72
    kept = fitted.replace("…", "")
    assert kept in " ".join(text.split()).replace("…", "")


def test_an_ellipsis_stands_for_what_was_cut() -> None:
    assert fit_text("frog", 1.0, 8) == "frog"
    assert fit_text(LONG_NAME, 1.0, 8) == "African hunting…"
    assert fit_text("runs/demo/with-a-long-name/seed-1", 1.0, 8, keep_end=True) == "…g-name/seed-1"
