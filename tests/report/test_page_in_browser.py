"""The page of a report in a headless Chromium: images, tables, phone, light and dark."""

import os
import shutil

import pytest
from written_runs import write_run

from dreamer_jax.report.results.report import write_report
from dreamer_jax.report.video import open_loop_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium), nor in $CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        # The sandbox needs rights that containers do not give.
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """The page of a report with every kind of section."""
    folder = tmp_path_factory.mktemp("page")
    runs = folder / "runs"
    grid = [{"kl_scale": k, "actor_entropy": e} for k in (0.1, 1.0) for e in (1e-3, 1e-2)]
    returns = [[0.1 * i, 0.2 * i] for i in range(4)]
    write_run(runs / "grid", returns=returns, hypers=grid)
    write_run(runs / "reach", task="reach", returns=[[8.0, 20.0 + i] for i in range(5)])
    repeat = {"env__action_repeat": 4, "every": 500_000}
    write_run(runs / "pong", task="atari:pong", returns=[[-3.0, 9.5]], kl_loss="a", **repeat)
    write_run(runs / "plain", task="atari:pong", returns=[[-9.0, 3.5]], kl_loss="b", **repeat)
    write_run(runs / "alien", task="atari:alien", returns=[[500.0, 900.0]], **repeat)
    videos = runs / "grid" / "videos"
    videos.mkdir()
    _write_gif(open_loop_path(videos, "image", 200, 0))
    (runs / "empty").mkdir()
    write_report([runs, runs / "empty"], folder / "out", defaults={}, ignored=("log_every",))
    return folder / "out" / "index.html"


def _write_gif(path):
    from PIL import Image

    Image.new("RGB", (200, 120), (30, 90, 160)).save(path, format="GIF")


def open_page(browser, path, **options):
    """Open the page from disk; return it with the list that its errors and requests go to."""
    page, complaints = browser.new_page(**options), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url[:80]}"))
    page.on(
        "request",
        lambda request: request.url.startswith("http") and complaints.append(request.url),
    )
    page.goto(path.as_uri())
    return page, complaints


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_opens_without_errors_and_fits_the_screen(browser, page_path, width, scheme):
    viewport = {"width": width, "height": 900}
    page, complaints = open_page(browser, page_path, viewport=viewport, color_scheme=scheme)
    for details in page.locator("details").all():
        details.locator("summary").click()
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert len(image.get_attribute("alt")) > 20
    assert page.locator("img").count() >= 6
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{width}_{scheme}.png", full_page=True)
    assert complaints == []
    page.close()


def column(table, index):
    return [
        cell.get_attribute("data-value")
        for cell in table.locator(f"td:nth-child({index + 1})").all()
    ]


def is_sorted(values, descending):
    """Return whether known values are in order, as numbers if all are, and unknown ones last."""
    known = [value for value in values if value]
    assert values[: len(known)] == known
    try:
        known = [float(value) for value in known]
        return known == sorted(known, reverse=descending)
    except ValueError:
        # The browser orders punctuation in a way of its own, so only the ends are compared.
        known = [value.casefold() for value in known]
        ends = (known[0], known[-1])
        return ends == ((max(known), min(known)) if descending else (min(known), max(known)))


@pytest.mark.parametrize("key", [None, "Enter", "Space"])
def test_every_table_sorts_by_click_and_by_key(browser, page_path, key):
    page, complaints = open_page(browser, page_path, viewport={"width": 1440, "height": 900})
    tables = page.locator("table").all()
    assert len(tables) >= 6
    for table in tables:
        heads = table.locator("th").all()
        for index in (0, len(heads) - 1):
            for order in ("ascending", "descending"):
                button = heads[index].locator("button")
                if key is None:
                    button.click()
                else:
                    button.focus()
                    page.keyboard.press(key)
                assert heads[index].get_attribute("aria-sort") == order
                values = column(table, index)
                assert is_sorted(values, order == "descending"), (order, values)
    assert "descending" in page.locator("#sorted").text_content()
    assert complaints == []
    page.close()


def test_the_keyboard_reaches_everything(browser, page_path):
    page, _ = open_page(browser, page_path, viewport={"width": 1440, "height": 900})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        element = page.evaluate("document.activeElement.tagName")
        if element == "BODY":
            break
        reached.add(element)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert reached >= {"A", "DIV", "BUTTON", "SUMMARY"}
    page.close()
