"""The page in a real browser: Debian's chromium without a window. Skipped where there is none."""

import json
import re

import pytest

from reporting.writing import write_report
from tests.helpers.browser import Browser, browser_path
from tests.helpers.report_folders import landscape

pytestmark = pytest.mark.skipif(browser_path() is None, reason="chromium is not installed")
TABLE = "#last-epoch table"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    labels = ("sgd", "sgd, coordinate_clip=0.1", "adam", "lion", "sign_sgd", "muon", "training")
    return write_report(landscape(tmp_path_factory.mktemp("page") / "run", labels))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, path):
    """The page, loaded anew, wide and light; at the end nothing was logged and nothing but the file was asked for."""
    browser.messages.clear(), browser.requests.clear()
    browser.open(path)
    yield browser
    browser.value("1")  # so that what is on its way arrives
    assert browser.messages == []
    assert {url.partition("#")[0] for url in browser.requests} == {path.as_uri()}


def column(page, number):
    """The cells of a column of the table, as a reader sees them."""
    rows = f"[...document.querySelectorAll('{TABLE} tbody tr')]"
    return page.value(f"{rows}.map(row => row.cells[{number}].textContent)")


def sorted_by(page):
    """[header, direction] of the columns that the table says it is sorted by."""
    found = f"[...document.querySelectorAll('{TABLE} th[aria-sort]')]"
    return page.value(
        f"{found}.filter(th => th.ariaSort != 'none').map(th => [th.textContent.trim(), th.getAttribute('aria-sort')])"
    )


def header(number):
    return f"{TABLE} thead th:nth-child({number + 1}) button"


# ---- tables ------------------------------------------------------------------------------------------------------


def test_a_click_sorts_by_value_and_a_second_one_turns_it_round(page):
    before = column(page, 1)
    assert sorted_by(page) == [] and len(before) == 7
    page.click(header(1))
    *numbers, last = column(page, 1)
    assert last == "–" and numbers == sorted(numbers, key=float) and sorted([*numbers, last]) == sorted(before)
    assert sorted_by(page) == [["ratio", "ascending"]]
    page.click(header(1))
    assert column(page, 1) == [*numbers[::-1], "–"]
    assert sorted_by(page) == [["ratio", "descending"]]


def test_rows_move_as_a_whole_and_names_sort_by_letters(page):
    pairs = set(zip(column(page, 0), column(page, 1), strict=True))
    page.click(header(1))
    page.click(header(0))
    assert column(page, 0) == ["adam", "lion", "muon", "sgd", "sgd, coordinate_clip=0.1", "sign_sgd", "training"]
    assert set(zip(column(page, 0), column(page, 1), strict=True)) == pairs
    assert sorted_by(page) == [["algorithm", "ascending"]]


def test_the_keyboard_reaches_a_column_shows_where_it_is_and_sorts(page):
    page.value(f"document.querySelector('{header(0)}').focus()")
    page.key("Tab", 9)
    assert page.value("document.activeElement.textContent") == "ratio"
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.key("Enter", 13, "\r")
    assert sorted_by(page) == [["ratio", "ascending"]] and column(page, 1)[0] == "-0.04625"
    page.key(" ", 32, " ")
    assert sorted_by(page) == [["ratio", "descending"]] and column(page, 1)[0] == "2.9"


def test_tab_reaches_the_link_to_the_answer_first_and_every_table_scrolls_by_keyboard(page):
    page.key("Tab", 9)
    assert page.value("document.activeElement.hash") == "#main"
    assert page.value("[...document.querySelectorAll('table')].every(t => t.parentElement.tabIndex === 0)")


# ---- values under the pointer ------------------------------------------------------------------------------------


def spot(text):
    found = "[...document.querySelectorAll('.spots > *')]"
    return f"{found}.find(spot => spot.dataset.value === {json.dumps(text)})"


def test_the_pointer_over_a_marker_shows_its_row_place_and_value(page):
    text = "adam\nepoch 3\ndirectional sharpness / |that of sgd| 0.245"
    assert page.value("document.querySelector('#tip').hidden")
    page.value(f"{spot(text)}.id = 'here'")
    place = page.center("#here")
    assert page.value(f"document.elementFromPoint({place[0]}, {place[1]}).id") == "here"
    page.mouse("mouseMoved", place)
    assert page.value("document.querySelector('#tip').innerText") == text
    box = page.value(
        "(b => [b.left, b.right, b.top, b.bottom])(document.querySelector('#tip').getBoundingClientRect())"
    )
    assert 0 <= box[0] < box[1] <= 1280 and 0 <= box[2] < box[3] <= 900
    page.mouse("mouseMoved", (5, 5))
    assert page.value("document.querySelector('#tip').hidden")


def test_the_spot_of_a_value_lies_on_the_marker_that_is_drawn_for_it(page):
    """Where matplotlib drew adam's squares in the figure of ratios, there are adam's spots."""
    figure = "document.querySelector('svg[aria-label^=\"Relative sharpness\"]')"
    spots = page.value(
        f"[...{figure}.querySelectorAll('.spots circle')].filter(s => s.dataset.value.startsWith('adam'))"
        ".map(s => [+s.getAttribute('cx'), +s.getAttribute('cy')])"
    )
    marks = page.value(
        f"[...{figure}.querySelectorAll('use[fill=\"var(--0072b2)\"]')]"
        ".map(s => [+s.getAttribute('x'), +s.getAttribute('y')])"
    )
    assert len(spots) == 2
    for x, y in spots:
        assert any(abs(x - u) < 0.2 and abs(y - v) < 0.2 for u, v in marks)


# ---- sizes, themes, paper ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_and_what_is_wider_scrolls_by_itself(page, path, size, theme):
    width, height = SIZES[size]
    page.open(path, width, height, dark=theme == "dark")
    assert page.value("document.documentElement.scrollWidth") == width
    page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.value("document.documentElement.scrollWidth") == width
    boxes = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && !e.matches('.unseen'))"
    wide = f"{boxes}.filter(e => e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 90))"
    assert page.value(wide) == []


def test_the_dark_theme_is_dark_and_figures_follow(page, path):
    def colors():
        return page.value(
            "[getComputedStyle(document.body).backgroundColor,"
            "getComputedStyle(document.querySelector('svg text')).fill,"
            "getComputedStyle(document.querySelector('svg path[fill=\"var(--ffffff)\"]')).fill]"
        )

    light = colors()
    page.open(path, dark=True)
    dark = colors()
    assert light == ["rgb(255, 255, 255)", "rgb(26, 28, 32)", "rgb(255, 255, 255)"]
    assert dark == ["rgb(22, 24, 29)", "rgb(228, 230, 234)", "rgb(22, 24, 29)"]


def test_it_prints_on_a4_in_light_colors_with_nothing_cut_off(page, path):
    page.open(path, dark=True)
    pages = page.pdf()
    assert pages.startswith(b"%PDF") and 3 < len(re.findall(rb"/Type\s*/Page\b", pages)) < 30
    sizes = {tuple(round(float(n)) for n in box.split()[2:]) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", pages)}
    assert sizes == {(595, 842)}
    page.send("Emulation.setEmulatedMedia", media="print")
    screen = dict(width=688, height=1000, deviceScaleFactor=1, mobile=False)  # 182 mm at 96 dots per inch
    page.send("Emulation.setDeviceMetricsOverride", **screen)
    assert page.value("document.documentElement.scrollWidth") <= 688
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    over = "[...document.querySelectorAll('table, svg')].filter(e => e.getBoundingClientRect().right > 689).length"
    assert page.value(over) == 0


def test_without_scripts_the_page_shows_all_of_it_and_no_button_that_does_nothing(page, path):
    page.open(path, scripts=False)
    root = page.send("DOM.getDocument")["root"]["nodeId"]

    def count(selector):
        return len(page.send("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"])

    assert count("button") == 0 and count("[hidden]") == 0
    assert count("figure svg") >= 6 and count(".spots title") > 50 and count(f"{TABLE} tbody tr") == 7
    page.send("Emulation.setScriptExecutionDisabled", value=False)


def test_the_policy_stops_what_would_leave_the_page(browser, path):
    browser.open(path)
    browser.requests.clear()
    said = browser.value(
        "Promise.all([fetch('https://example.org/').then(() => 'went', () => 'stopped'),"
        "new Promise(done => { const i = new Image(); i.onload = () => done('went'); i.onerror = () => done('stopped');"
        "i.src = 'https://example.org/a.png' })])"
    )
    assert said == ["stopped", "stopped"]
    browser.messages.clear()


def test_the_test_browser_sees_errors_and_requests(browser, tmp_path):
    """So that the checks above cannot pass by seeing nothing."""
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><img src='missing.png'><script>console.log('here'); nothing.at.all</script>")
    browser.messages.clear(), browser.requests.clear()
    browser.open(page)
    browser.value("1")
    assert any("here" in message for message in browser.messages) and len(browser.messages) >= 2
    assert any(url.endswith("missing.png") for url in browser.requests)
    browser.messages.clear()
