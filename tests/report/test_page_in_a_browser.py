"""The page in a real browser: it loads nothing, complains of nothing, and can be worked with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from finished_runs import write_sweep

from kdcache.cli.main import main

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        program = CHROMIUM or playwright.chromium.executable_path
        if not Path(program).exists():
            pytest.skip("no Chromium here to open the page with")
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    sweep = write_sweep(folder / "runs")
    assert run(main, "compare", sweep, "--html", folder / "page.html") == 0
    return folder / "page.html"


@pytest.fixture
def page(browser: "sync_api.Browser", written: Path) -> Iterator["sync_api.Page"]:
    """The page, drawn; at the end it must have loaded nothing and complained of nothing."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, complaints = [], []
    opened.on("request", lambda request: requests.append(request.url))
    # Plotly traces how often it laid out a margin, which is no complaint
    opened.on(
        "console", lambda message: message.type != "trace" and complaints.append(message.text)
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(written.as_uri())
    opened.wait_for_selector("body[data-drawn]", timeout=60_000)
    yield opened
    opened.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [written.as_uri()]


def column(page: "sync_api.Page", number: int) -> list[str]:
    """The visible cells of the first table."""
    cells = page.locator(".sortable").first.locator(f"tbody tr > :nth-child({number})")
    return [cell.inner_text() for cell in cells.all() if cell.is_visible()]


def test_hovering_shows_a_value(page: "sync_api.Page") -> None:
    page.locator(".chart").first.scroll_into_view_if_needed()
    page.locator(".chart").first.locator(".scatterlayer .point").nth(1).hover(force=True)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "%" in str(page.locator(".hoverlayer .hovertext").first.text_content())


def test_sorting_sorts(page: "sync_api.Page") -> None:
    page.get_by_role("button", name="test %").click()
    tested = [float(text.split()[0]) for text in column(page, 2)]
    assert tested == [89.0, 65.6, 64.0, 63.8, 63.0, 51.0]
    page.get_by_role("button", name="test %").click()
    assert [float(text.split()[0]) for text in column(page, 2)] == tested[::-1]
    page.get_by_role("button", name="difference").click()
    assert column(page, 3)[-2:] == ["–", "–"]  # what is empty comes last


def test_filtering_filters(page: "sync_api.Page") -> None:
    def traces() -> int:
        return page.locator(".chart").first.locator(".scatterlayer .trace").count()

    before = traces()
    page.locator("[data-option=temperature]").select_option("2")
    names = [name.removesuffix(" (best)") for name in column(page, 1)]
    assert names == [
        "teacher, probe: vit_b_16",
        "labels only",
        "distilled, T 2, alpha 0.5",
        "distilled, T 2, alpha 0.9",
    ]
    page.wait_for_function(
        "count => document.querySelectorAll('.chart')[0].data.length < count", arg=before
    )
    assert traces() == before - 4  # of two groups the dots and the diamond
    page.locator("[data-option=kind]").select_option("distilled")
    assert len(column(page, 1)) == 3


def test_zooming_zooms(page: "sync_api.Page") -> None:
    chart = page.locator(".chart").first
    box = chart.locator(".nsewdrag").first.bounding_box()
    assert box is not None
    before = page.evaluate("document.querySelector('.chart').layout.xaxis.range")
    page.mouse.move(box["x"] + 50, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 100, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "before => document.querySelector('.chart').layout.xaxis.range[1] < before[1]", arg=before
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_scheme(
    browser: "sync_api.Browser", written: Path, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(written.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ink = page.evaluate("getComputedStyle(document.querySelector('.chart .xtick text')).fill")
    assert (max(map(int, ink[4:-1].split(","))) > 128) == (scheme == "dark")
    page.close()


def test_on_paper_the_charts_are_pictures(page: "sync_api.Page") -> None:
    page.emulate_media(media="print")
    charts, printed = page.locator(".chart"), page.locator(".printed")
    assert charts.count() == printed.count() > 5
    assert not any(chart.is_visible() for chart in charts.all())
    for picture in printed.all():
        assert picture.is_visible() and picture.evaluate("image => image.naturalWidth") > 300
    assert len(page.pdf()) > 50_000
