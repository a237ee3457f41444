#!/usr/bin/env python3
"""Make docs/pictures/page.png from a page of `kdcache compare --html`, with Chromium.

    python docs/screenshots.py runs/demo/report.html

To the left its top in light, to the right the learning curves in dark.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "pictures" / "page.png"


def main(page: Path) -> None:
    shots = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        program = shutil.which("chromium")  # without one, playwright's own
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme, place in (("light", ""), ("dark", "#learning")):
            shown = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
            shown.goto(page.resolve().as_uri() + place)
            shown.wait_for_selector("body[data-drawn]")
            shown.evaluate("document.querySelector(location.hash || 'body').scrollIntoView()")
            shown.screenshot(path=Path(folder) / "shot.png")
            shots.append(matplotlib.image.imread(Path(folder) / "shot.png")[..., :3])
    matplotlib.image.imsave(PICTURE, np.concatenate(shots, axis=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
