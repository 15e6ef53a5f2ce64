"""The whole book as one PDF, printed by Chromium from one long page: python -m lib.show.pdf _build

reads OUT/source and OUT/_config.yml, which `make book` leaves, and writes OUT/book.pdf. No LaTeX.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from lib.show.build import build

TOC = Path(__file__).parents[2] / "_toc.yml"
TYPESET = "![...document.querySelectorAll('.math')].some(one => !one.querySelector('mjx-container'))"
CHAPTERS = ".bd-content section > h1 { break-before: page; }"
SHEET = {"format": "A4", "scale": 0.75, "margin": {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}}
PAGES = '<div style="font: 8px sans-serif; width: 100%; text-align: center"><span class="pageNumber"></span></div>'


def chromium() -> str | None:
    """Path of a Chromium: $CHROMIUM, or what is installed; None without one."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def write(out: Path) -> Path:
    """Print the book whose pages lie in OUT/source; the PDF's path. Raises ValueError where there are none."""
    if not (program := chromium()):
        raise ValueError("there is no Chromium to print with: install one, or set CHROMIUM to its path")
    if not (out / "_config.yml").exists():
        raise ValueError(f"there is no book in {out}: run make book first")
    target = out / "book.pdf"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = Path(folder, "html")  # Sphinx writes beside it too
        if build(out / "source", site, out / "_config.yml", TOC, "singlehtml"):
            raise ValueError("the page was not built; the warnings above say why")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme="light")
        page.route("**/vega.js", lambda route: route.abort())  # on paper charts are the drawings that they begin as
        page.goto((site / "index.html").as_uri())
        page.wait_for_function(TYPESET)
        page.add_style_tag(content=CHAPTERS)
        page.pdf(
            path=target, outline=True, tagged=True, print_background=True,
            display_header_footer=True, header_template="<span></span>", footer_template=PAGES, **SHEET,
        )  # fmt: skip
        browser.close()
    return target


def main() -> None:
    """Command line."""
    try:
        path = write(Path(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
