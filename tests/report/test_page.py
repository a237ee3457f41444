"""The page on finished runs: well-formed, self-contained, escaped, and what its charts show."""

import base64
import hashlib
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from finished_runs import IMAGES, NAMES, write_run, write_sweep
from PIL import Image

from kdcache.cli.commands import compare
from kdcache.cli.main import main
from kdcache.data.datasets import load_images
from kdcache.report.comparison import compare_runs
from kdcache.report.page import charts, prediction_charts, score_charts
from kdcache.report.tables import cell_percent
from kdcache.runs import find_runs
from kdcache.runs.predictions import save_predictions

VOID = {"meta", "br", "img", "link", "input", "hr"}
SECTIONS = [
    "Results",
    "Learning",
    "Options",
    "Cost",
    "Classes",
    "Confidence",
    "Agreement",
    "Where they disagree",
    "Hyper-parameters",
    "Runs",
]
LARGEST = 6_000_000  # bytes


class Reader(HTMLParser):
    """Checks that tags nest, and keeps headings, attributes, text and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.text += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] = (self.open[-1], self.headings[-1][1] + data)

    @property
    def charts(self) -> list[dict]:
        return json.loads(self.scripts[0])["charts"]


def read(page: Path) -> Reader:
    """The page, after a look at what every page must keep to."""
    assert page.stat().st_size < LARGEST
    reader = Reader()
    reader.feed(page.read_text())
    assert reader.open == []
    (policy,) = (str(at["content"]) for tag, at in reader.found if "http-equiv" in at)
    hashes = re.findall("'sha256-(.*?)'", policy)
    # the data and no other script may go without a hash
    for script, expected in zip(reader.scripts[1:], hashes, strict=True):
        digest = hashlib.sha256(script.encode()).digest()
        assert base64.b64encode(digest).decode() == expected
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "http" not in policy
    links = [at["href"] for tag, at in reader.found if tag == "a"]
    anchors = {at.get("id") for _, at in reader.found}
    assert links and all(str(link).removeprefix("#") in anchors for link in links)
    for tag, attributes in reader.found:
        assert tag not in ("link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert tag != "img" or attributes["alt"]
        assert tag != "th" or attributes["scope"] in ("col", "row")
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
    images = [at for tag, at in reader.found if tag == "img" and "src" in at]
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
    assert sections(reader) == ["Results", "Cost", "Hyper-parameters", "Runs"]
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
    reader = read(tmp_path / "page.html")
    assert "Confidence" in sections(reader) and "Agreement" not in sections(reader)
    assert "heatmap" not in {trace["type"] for chart in reader.charts for trace in chart["data"]}


def test_the_embedded_images_need_no_folder(tmp_path: Path) -> None:
    test = load_images("shapes", Path(), limit=IMAGES).splits["test"]
    out = write_run(tmp_path / "run", 0.5, alpha=0.5, dataset="shapes", test_digest=test.digest())
    page = tmp_path / "page.html"
    assert run(main, "compare", out, "--html", page) == 0
    assert any(tag == "img" and "src" in at for tag, at in read(page).found)
    write_run(tmp_path / "other", 0.5, alpha=0.5, dataset="shapes")
    assert run(main, "compare", tmp_path / "other", "--html", page) == 0
    assert "They cannot be shown" in read(page).text


def groups_of(folder: Path) -> tuple:
    return compare_runs(*find_runs([folder])).groups


def two_groups(folder: Path, seeds: int = 1) -> tuple:
    for seed in range(seeds):
        write_run(folder / f"labels-{seed}", 0.772, seed=seed, test_images=4000)
        write_run(folder / f"distilled-{seed}", 0.775, seed=seed, alpha=0.5, test_images=4000)
    return groups_of(folder)


def test_one_seed_is_no_mean(tmp_path: Path) -> None:
    one, three = two_groups(tmp_path / "one"), two_groups(tmp_path / "three", seeds=3)
    for groups, told in ((one, False), (three, True)):
        shown = [*score_charts.learning(groups), *score_charts.accuracies(groups, ())]
        assert any("over the seeds" in chart.caption for chart in shown) == told


def test_an_axis_of_accuracies_is_no_narrower_than_the_noise(tmp_path: Path) -> None:
    """77.2 and 77.5 % of 4,000 images: the error bars, which Plotly makes room for, are 1.3."""
    (chart,) = score_charts.cost(two_groups(tmp_path))
    bars = [trace.error_y.value for trace in chart.figure.data]
    assert bars == pytest.approx([1.300, 1.294], abs=0.001)
    x = chart.figure.layout.xaxis
    assert "seconds" in x.title.text and len(x.tickvals) == 4  # 30 and 35 seconds have no decade
    assert 30 <= min(x.tickvals) < max(x.tickvals) <= 35


def test_the_kept_epochs_are_those_of_the_table(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, best_epoch=2, validation_accuracy=0.4)
    groups = groups_of(tmp_path)
    (accuracy,) = (chart for chart in score_charts.learning(groups) if chart.title == "Accuracy")
    (kept,) = (trace for trace in accuracy.figure.data if trace.mode == "markers")
    assert (list(kept.x), list(kept.y)) == ([2], [40.0])
    assert groups[0].validation_accuracy == 0.4


def test_a_bin_with_few_images_is_hollow_and_uncertain(tmp_path: Path) -> None:
    out = write_run(tmp_path / "run", 0.5)
    # 39 images at a confidence of 1/4, 10 of them right, and one of 1.0 that is right
    logits = torch.zeros(40, 4)
    logits[39, 3] = 50.0
    labels = torch.tensor([0] * 10 + [1] * 29 + [3])
    save_predictions(out / "predictions.pt", labels, student=logits)
    (chart,) = prediction_charts.calibration(groups_of(tmp_path))
    marks = chart.figure.data[1]
    assert list(marks.marker.symbol) == ["circle", "circle-open"] and marks.y[1] == 100
    # Wilson's interval of 1 of 1 is z^2 / (1 + z^2) to 1, with z = 1.96: 20.65 to 100 %
    assert marks.error_y.arrayminus[1] == pytest.approx(79.35, abs=0.01)


def test_cells_of_a_confusion_matrix() -> None:
    values = (0.0, float("nan"), 0.2, 0.5, 0.99, 1.0, 1.5, 99.6)
    assert [cell_percent(value) for value in values] == [
        "", "", "<1", "<1", "<1", "1", "2", "100"
    ]  # fmt: skip


def test_differences_by_class(tmp_path: Path) -> None:
    labels = torch.arange(40) % 4
    for name, alpha, right in (("labels", 0.0, 4), ("distilled", 0.5, 9)):
        out = write_run(tmp_path / name, 0.5, alpha=alpha)
        predictions = labels.clone()
        predictions[(labels == 2).nonzero()[right:, 0]] = 3
        save_predictions(out / "predictions.pt", labels, student=torch.eye(4)[predictions])
    (chart,) = prediction_charts.classes(groups_of(tmp_path))
    (bars,) = chart.figure.data
    assert bars.x == pytest.approx([0, 0, 0, 50])
    assert list(bars.customdata[3]) == ["owl &amp; rat", 10, 90.0, 40.0]
    # Wilson's intervals of 9 and 4 of 10 are 0.59585 to 0.98211 and 0.16818 to 0.68733, so that
    # Newcombe's upper end lies sqrt(0.08211^2 + 0.23182^2) above the difference
    assert bars.error_x.array[3] == pytest.approx(24.593, abs=0.01)


def test_what_plotly_is_given_is_escaped(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.5, student="<b>bold</b>")
    assert all("<b>" not in look.name for look in charts.looks(groups_of(tmp_path)))
    assert charts.named_axis(["a<b", "a very long name, indeed"], "")["ticktext"] == [
        "a&lt;b",
        "a very long nam…",
    ]


def test_p_is_a_number_and_its_absence_a_note(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "labels", 0.5)
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"a{seed}", 0.6, alpha=0.5, seed=seed)
    page = tmp_path / "page.html"
    assert run(main, "compare", tmp_path / "runs", "--html", page) == 0
    table = page.read_text().split("</table>")[0]
    heads = re.findall(r'<button type="button">(.*?)</button>', table)
    cells = re.findall(r"<td.*?>(.*?)</td>", table.split("<tr")[-1])
    row = dict(zip(heads[1:], cells, strict=True))
    assert (row["p"], row["note"]) == ("–", "only 1 shared seed")


def test_without_its_packages_the_page_is_refused_after_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", 0.5)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        compare, "find_spec", lambda name: None if name == "plotly" else found(name)
    )
    assert run(main, "compare", tmp_path / "run", "--html", tmp_path / "page.html") == 2
    printed = capsys.readouterr()
    assert "labels only" in printed.out
    assert "found no plotly; pip install 'kdcache[report]', or omit --html" in printed.err
