"""The page on loss curves of one's own in a real Chromium: from a file, with JavaScript and without."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe

from lib.run import report
from tests.conftest import run
from tests.test_browser import AXE, VIEWS, browser  # noqa: F401
from tests.test_own_runs import curve


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page on two seeds, written by the command."""
    folder = tmp_path_factory.mktemp("own")
    for seed in range(2):
        one = curve(300, 0.03, 0.005, seed)
        rows = "\n".join(f"{loss},{step}" for step, loss in zip(one.steps, one.losses, strict=True))
        (folder / f"seed {seed}.csv").write_text(f"loss,step\n{rows}\n")
    out = folder / "page" / "loss.html"
    said = run("lib.run.report", "--loss", folder / "seed 0.csv", folder / "seed 1.csv", "--out", out)
    assert "2 of 2 runs saturate" in said and f"page: {out}" in said
    return out


def test_numbers_lie_beside_a_small_page(page):
    numbers = json.loads(page.with_suffix(".json").read_text())
    assert numbers["schema"] == "loss-curves" and len(numbers["runs"]) == 2 and numbers["seeds"]["saturated"] == 2
    assert page.stat().st_size < 3e6
    assert sorted(path.name for path in page.parent.iterdir()) == ["loss.html", "loss.json"]


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_from_a_file_it_is_alive_and_asks_for_nothing(browser, page, width, height, scheme):  # noqa: F811
    messages = []
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    shown = context.new_page()
    shown.on("console", lambda message: message.type in ("error", "warning") and messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.on(
        "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or messages.append(request.url)
    )
    shown.goto(page.as_uri())
    shown.wait_for_function("[...document.querySelectorAll('.vl-chart')].every(box => box.dataset.live)")
    assert shown.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    for violation in Axe().run(shown, options=AXE).response["violations"]:
        if violation["impact"] in ("critical", "serious"):
            messages.append(f"{violation['id']} {[node['html'][:200] for node in violation['nodes'][:3]]}")
    assert messages == []


def test_without_javascript_charts_are_drawings(browser, page):  # noqa: F811
    shown = browser.new_context(java_script_enabled=False).new_page()
    shown.goto(page.as_uri())
    assert shown.locator(".vl-chart").count() == shown.locator(".vl-chart svg:visible").count() == 2
    assert "2 of 2 runs saturate" in shown.locator("main").inner_text()


def test_a_bad_file_gives_a_sentence_and_no_page(tmp_path, capsys):
    (tmp_path / "run.csv").write_text("step,accuracy\n1,2\n")
    with pytest.raises(SystemExit, match="error: no column of .*run.csv is called a loss: it has step, accuracy"):
        report.main(["--loss", str(tmp_path / "run.csv"), "--out", str(tmp_path / "page.html")])
    assert not (tmp_path / "page.html").exists()
