"""The site in a real Chromium that reaches this machine only: wide and light, phone and dark, no JavaScript."""

import functools
import http.server
import os
import threading
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from lib.show import pdf

CHROMIUM = pdf.chromium()
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# The theme's own, outside our pages' text: search and colour buttons, the sidebar's landmark, code toggles.
THEIRS = {"label-content-name-mismatch", "region", "empty-table-header"}
# axe would fetch the imports of style sheets from addresses that it resolves against the page.
AXE = {"preload": False, "resultTypes": ["violations"]}  # of what passes it would only keep accounts
VIEWS = [(1280, 900, "light"), (390, 844, "dark")]


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; without one the tests are skipped here and fail in continuous integration."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium: install it, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(scope="module")
def server(book):
    """Address of the site on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=book / "html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def names(book):
    """Pages of the book proper."""
    special = {"genindex.html", "prf-prf.html", "search.html"}
    return sorted(p.name for p in (book / "html").glob("*.html") if p.name not in special)


def open_page(context, address, messages):
    """Open an address, collecting console messages, page errors and whatever would leave this machine."""
    page = context.new_page()
    page.on("console", lambda m: m.type in ("error", "warning") and messages.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: messages.append(f"error: {e}"))

    def guard(route):
        if route.request.url.startswith(("http://127.0.0.1", "file:", "data:", "blob:")):
            return route.continue_()
        messages.append(f"outside: {route.request.url}")
        return route.abort()

    page.route("**/*", guard)
    page.goto(address)
    return page


WIDE = (
    "() => [...document.querySelectorAll('pre, .book-table-box, .table-box, .vl-chart')]"
    ".filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent.slice(0, 80))"
)


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_pages_live(browser, server, names, width, height, scheme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    wrong = []
    for name in names:
        messages = []
        page = open_page(context, f"{server}/{name}", messages)
        page.wait_for_function("[...document.querySelectorAll('.vl-chart')].every(box => box.dataset.live)")
        page.wait_for_function(pdf.TYPESET)
        state = page.evaluate(
            "() => ({errors: document.querySelectorAll('mjx-merror').length,"
            " overflow: document.documentElement.scrollWidth - innerWidth,"
            " theme: document.documentElement.dataset.theme})"
        )
        if state["errors"] or state["overflow"] > 0 or state["theme"] != scheme:
            messages.append(f"page: {state}")
        for violation in Axe().run(page, options=AXE).response["violations"]:
            if violation["impact"] in ("critical", "serious") and violation["id"] not in THEIRS:
                where = [node["html"][:160] for node in violation["nodes"][:3]]
                messages.append(f"axe: {violation['id']} {where}")
        if width >= 1280:
            page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
            messages += [f"scrolls aside: {text}" for text in page.evaluate(WIDE)]
        wrong += [(name, message) for message in messages]
        page.close()
    assert wrong == []


def test_without_javascript_charts_are_drawings(browser, server, names):
    context = browser.new_context(java_script_enabled=False)
    for name in names:
        page = open_page(context, f"{server}/{name}", [])
        boxes = page.locator(".vl-chart")
        assert boxes.count() == page.locator(".vl-chart svg:visible").count(), name
        page.close()


FIT = "[...document.querySelectorAll('.fit-x')].every(b => b.querySelector('svg').clientWidth <= b.clientWidth)"


def test_charts_follow_a_window_that_is_resized(browser, server):
    page = open_page(browser.new_context(viewport={"width": 900, "height": 1000}), f"{server}/04b_spectra.html", [])
    page.wait_for_function("[...document.querySelectorAll('.vl-chart')].every(box => box.dataset.live)")
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.evaluate("Promise.all(document.getAnimations().map(slide => slide.finished))")  # of the side bars
    page.wait_for_function(FIT, timeout=10_000)


FINDS = {
    "kappa": "08_causes",
    "sigma": "04b_spectra",
    "σ": "04b_spectra",
    "W-error": "05a_rank_heads",
    "C4": "04a_anisotropy",
}


@pytest.mark.parametrize(("asked", "chapter"), FINDS.items())
def test_the_search_finds_symbols_and_claims(browser, server, asked, chapter):
    page = open_page(browser.new_context(), f"{server}/search.html?q={asked}", [])
    page.wait_for_selector(f"#search-results a[href*='{chapter}']")


def test_a_printed_page_is_its_text_alone(browser, server):
    page = open_page(browser.new_context(viewport={"width": 720, "height": 1000}), f"{server}/04b_spectra.html", [])
    page.emulate_media(media="print")
    shown = "name => [...document.querySelectorAll(name)].some(one => one.checkVisibility())"
    aside = (
        ".bd-sidebar-primary",
        ".bd-sidebar-secondary",
        ".header-article-items",
        ".prev-next-footer",
        ".figure-links",
    )
    assert not [name for name in aside if page.evaluate(shown, name)]
    assert page.evaluate(shown, ".vl-chart svg")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


SHOWN = (
    "[...document.querySelectorAll('.vl-chart')].map(box => [...box.querySelectorAll('text')].map(t => t.textContent)"
    ".find(text => text.includes(', step ') || text.includes('not known')))"
)


def explore(context, book, address=""):
    """The explorer, opened as a file with an address's fragment, once its charts live."""
    messages = []
    page = open_page(context, (book / "html" / "explorer.html").as_uri() + address, messages)
    page.wait_for_function("[...document.querySelectorAll('.vl-chart')].every(box => box.dataset.live)")
    assert messages == []
    return page


def test_explorer_is_steered_by_keyboard_and_its_address_brings_the_view_back(browser, book):
    context = browser.new_context()
    page = explore(context, book)
    before = page.evaluate(SHOWN)
    assert len(set(before)) == 1 and "not known" not in before[0]
    model = page.locator("#explorer-model")
    names = model.locator("option").all_text_contents()
    model.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.wait_for_function(f"({SHOWN}).every(text => text.startsWith('{names[1]}, step 1'))")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    address = page.evaluate("location.hash")
    for part in (f"model={names[1]}", "step=1&", "layer=0", "view=mean"):
        assert part in address
    again = explore(context, book, address)
    assert again.evaluate(SHOWN) == page.evaluate(SHOWN)
    assert again.locator("output").all_text_contents() == page.locator("output").all_text_contents()
    lost = explore(context, book, "#model=nobody&step=x&view=")
    assert lost.evaluate(SHOWN) == before


def test_explorer_says_where_nothing_is_known_and_where_it_stands_without_javascript(browser, book):
    page = explore(browser.new_context(), book, "#model=Pythia-70M&step=143000")
    page.wait_for_function(f"({SHOWN}).every(text => text.includes('Pythia-70M'))")
    loss, *_, spectrum, w_error = page.evaluate(SHOWN)
    assert loss == "Pythia-70M, step 143,000" and spectrum == w_error == "not known of Pythia-70M"
    still = open_page(browser.new_context(java_script_enabled=False), (book / "html" / "explorer.html").as_uri(), [])
    assert not still.locator("form.explorer").is_visible()
    assert still.get_by_text("Without JavaScript the charts stand at").is_visible()


def test_links_show_where_they_lead_and_a_chart_is_saved_as_it_stands(browser, book):
    page = open_page(browser.new_context(), (book / "html" / "index.html").as_uri(), [])
    page.locator("article a.reference.internal[href*='#fig-']").first.focus()
    page.locator(".popover img").wait_for()
    assert page.evaluate("document.querySelector('.popover img').decode().then(() => true)")
    page.keyboard.press("Escape")
    page.locator(".popover").wait_for(state="detached")
    page = explore(browser.new_context(accept_downloads=True), book, "#step=0")
    links = page.locator(".figure-links").first
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as saved:
            links.get_by_text(kind).click()
        content = Path(saved.value.path()).read_bytes()
        assert saved.value.suggested_filename == f"fig-explorer-loss.{kind.lower()}" and content.startswith(start)
    assert b"step 0<" in content
