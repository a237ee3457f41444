"""The page on finished runs: well-formed, self-contained, escaped, and in a browser's hands."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from finished_runs import IMAGES, NAMES, write_run, write_sweep
from matplotlib import image as image_files
from PIL import Image

from kdcache.cli.main import main
from kdcache.data.datasets import load_images
from kdcache.report.page import charts, svg
from kdcache.runs.predictions import save_predictions

VOID = {"meta", "br", "img", "link", "input", "hr"}
SECTIONS = [
    "Test accuracy",
    "Learning",
    "Temperature and alpha",
    "Cost",
    "Confusions",
    "Confidence",
    "Student and teacher",
    "Where they disagree",
    "Runs",
]


class Reader(HTMLParser):
    """Checks that tags nest, and keeps headings, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] = (self.open[-1], self.headings[-1][1] + data)


def read(page: Path) -> Reader:
    """The page, after a look at what every page must keep to."""
    text = page.read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import", re.sub(r'"data:image/png;base64,[\w+/=]+"', "", text)
    )
    for tag, attributes in reader.found:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or (attributes["role"] == "img" and len(attributes["aria-label"]) > 20)
        assert tag != "th" or attributes["scope"] in ("col", "row")
        for name in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "points"):
            assert tag in ("img", "svg") or "nan" not in (attributes.get(name) or "")
    return reader


def sections(reader: Reader) -> list[str]:
    return [text for tag, text in reader.headings if tag == "h2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder whose 40 test images lie in the order of their classes."""
    for split, count in (("train", 4), ("test", IMAGES // 4)):
        for label, name in enumerate(("a", "b", "c", "d")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), (60 * label, 10 * number, 9), np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "images" / split / name / f"{number:02}.png"
                )
    return tmp_path / "images"


def test_a_page_on_a_sweep(tmp_path: Path, folder: Path) -> None:
    digest = load_images("folder", folder).splits["test"].digest()
    sweep = write_sweep(tmp_path / "runs", test_digest=digest)
    assert run(main, "compare", sweep, "--html", tmp_path / "page.html", "--data", folder) == 0
    reader = read(tmp_path / "page.html")
    assert sections(reader) == SECTIONS
    assert [tag for tag, _ in reader.headings].count("h1") == 1
    for path in sweep.iterdir():
        assert path.name in reader.text
    assert digest in reader.text and "f" * 64 in reader.text and "train_student.py" in reader.text
    assert NAMES[1] in reader.text and "alert('dog')" in reader.text
    images = [attributes for tag, attributes in reader.found if tag == "img"]
    assert 4 <= len(images) <= 24 and all("label" in at["alt"] for at in images)


def test_without_the_images_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    sweep = write_sweep(tmp_path / "runs")
    assert run(main, "compare", sweep, "--html", tmp_path / "page.html") == 0
    reader = read(tmp_path / "page.html")
    assert sections(reader) == SECTIONS and "Give --data DIR" in reader.text
    message = refused(
        main, capsys, "compare", sweep, "--html", tmp_path / "p.html", "--data", folder
    )
    assert "others in" in message and "correct --data" in message


def test_runs_of_an_older_version(tmp_path: Path) -> None:
    """Without predictions, metrics, config, digest and class names."""
    for name, alpha in (("labels", 0.0), ("distilled", 0.5)):
        out = write_run(
            tmp_path / "runs" / name,
            0.5 + alpha / 5,
            alpha=alpha,
            predictions=False,
            test_digest=None,
            teacher=None,
        )
        for held in ("config.json", "metrics.jsonl", "student.json"):
            (out / held).unlink()
    assert run(main, "compare", tmp_path / "runs", "--html", tmp_path / "page.html") == 0
    reader = read(tmp_path / "page.html")
    assert sections(reader) == ["Test accuracy", "Cost", "Runs"]
    assert "left no predictions.pt" in reader.text


@pytest.mark.parametrize("changes", [{"test": None}, {"test": 0.5}, {"test": 0.5, "alpha": 0.5}])
def test_a_single_run(changes: dict, tmp_path: Path) -> None:
    out = write_run(tmp_path / "<b>&'\"", **changes)
    assert run(main, "compare", out, "--html", tmp_path / "page.html") == 0
    assert "<b>&'\"" in read(tmp_path / "page.html").text


def test_many_classes_are_no_matrix(tmp_path: Path) -> None:
    for name, alpha in (("labels", 0.0), ("distilled", 0.5)):
        out = write_run(tmp_path / "runs" / name, 0.5, alpha=alpha)
        logits = torch.eye(300)[torch.arange(600) % 299]
        save_predictions(
            out / "predictions.pt", torch.arange(600) % 300, student=logits, teacher=None
        )
    assert run(main, "compare", tmp_path / "runs", "--html", tmp_path / "page.html") == 0
    found = sections(read(tmp_path / "page.html"))
    assert (
        "Confidence" in found and "Confusions" not in found and "Student and teacher" not in found
    )


def test_the_embedded_images_need_no_folder(tmp_path: Path) -> None:
    test = load_images("shapes", Path(), limit=IMAGES).splits["test"]
    out = write_run(tmp_path / "run", 0.5, alpha=0.5, dataset="shapes", test_digest=test.digest())
    page = tmp_path / "page.html"
    assert run(main, "compare", out, "--html", page) == 0
    assert any(tag == "img" for tag, _ in read(page).found)
    write_run(tmp_path / "other", 0.5, alpha=0.5, dataset="shapes")
    assert run(main, "compare", tmp_path / "other", "--html", page) == 0
    assert "They cannot be shown" in read(page).text


def test_ticks_are_round() -> None:
    assert svg.ticks(0, 100, 5) == [0, 50, 100]
    assert svg.ticks(31.2, 38.9, 5) == [32, 34, 36, 38]
    assert svg.ticks(3, 3, 5) == [3]


def test_labels_are_spread() -> None:
    assert svg.spread([10, 11, 50], 12, 0, 100) == [10, 22, 50]
    assert svg.spread([95, 99], 12, 0, 100) == [88, 100]


def test_text_is_escaped_and_cut() -> None:
    assert svg.escape('<a href="x">&\'\udcff') == "&lt;a href=&quot;x&quot;&gt;&amp;&#x27;?"
    assert svg.shorten("a long name", 40) == "a long…"
    assert "<script" not in charts.dots([("<script>", "baseline", [50.0])], [("<script>", 60.0)])


def chromium(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("no Chromium here to open the page with")
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, timeout=60)


def test_a_browser_opens_it(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    assert run(main, "compare", write_sweep(tmp_path / "runs"), "--html", page) == 0
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    chromium(profile, "--window-size=375,3000", f"--screenshot={picture}", page.as_uri())
    shown = image_files.imread(picture)
    assert shown.shape[:2] == (3000, 375) and shown[..., :3].std() > 0.02
    dumped = chromium(profile, "--dump-dom", page.as_uri()).stdout.decode()
    for name in SECTIONS:
        assert f">{name}</h2>" in dumped
