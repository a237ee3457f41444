#!/usr/bin/env python3
"""Make docs/pictures/page.png: the page on a finished sweep, in light and dark, with Chromium.

    python docs/screenshots.py [RUN ...]

Without runs, a small sweep on the embedded images is trained first.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.image
import numpy as np
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "pictures" / "page.png"
KDCACHE = [sys.executable, "-m", "kdcache"]
STUDENT = ["--student", "shufflenet_v2_x0_5", "--student-weights", "none", "--epochs", "10"]
STUDENT += ["--batch-size", "64", "--lr", "0.02"]
IMAGES = ["--dataset", "shapes", "--limit", "2000"]


def train(folder: Path) -> list[Path]:
    """A labels-only student, one that teaches, and a sweep of its students; three seeds of each."""
    labels = [folder / f"labels-{seed}" for seed in range(3)]
    for seed, out in enumerate(labels):
        own = ["--alpha", "0", "--seed", str(seed), "--out", str(out)]
        subprocess.run([*KDCACHE, "train", *IMAGES, *STUDENT, *own], check=True)
    cache = ["--cache", str(folder / "teacher.h5"), "--augment", "crop-flip", "--views", "4"]
    teacher = ["--teacher", STUDENT[1], "--teacher-weights", str(labels[0] / "student.pt")]
    subprocess.run([*KDCACHE, "precompute", *IMAGES, *teacher, *cache], check=True)
    settings = ["--set", "temperature=1,4", "--set", "alpha=0.5,0.9", "--seeds", "3"]
    words = [str(folder / "teacher.h5"), *settings, *STUDENT, "--out", str(folder / "sweep")]
    subprocess.run([*KDCACHE, "sweep", *words], check=True)
    return [*labels, folder / "sweep"]


def main(runs: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        page = Path(name) / "page.html"
        words = [*map(str, runs or train(Path(name))), "--html", str(page)]
        subprocess.run([*KDCACHE, "compare", *words], check=True)
        program = shutil.which("chromium")  # without one, playwright's own
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        shots = []
        for scheme in ("light", "dark"):
            shown = browser.new_page(viewport={"width": 1100, "height": 1000}, color_scheme=scheme)
            shown.goto(page.as_uri())
            shown.wait_for_selector("body[data-drawn]")
            shown.screenshot(path=Path(name) / f"{scheme}.png")
            shots.append(matplotlib.image.imread(Path(name) / f"{scheme}.png")[..., :3])
        matplotlib.image.imsave(PICTURE, np.concatenate(shots, axis=1))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
