"""An executed notebook as one HTML file that loads nothing: python -m lib.show.page FOLDER

makes a page beside every notebook of a folder that is newer than its page.
"""

import re
import sys
from pathlib import Path

from nbconvert.exporters import HTMLExporter
from traitlets.config import Config

HIDDEN = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"hide-input"}}})
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font-family: sans-serif; line-height: 1.5;
  color: #222; background: #fff; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } a { color: #8cf; } }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
pre { overflow-x: auto; } .vl-chart svg { max-width: 100%; height: auto; } .prompt { display: none; }
"""


def write(notebook: Path) -> Path:
    """Write NOTEBOOK.html beside an executed notebook; cells tagged hide-input show their outputs only."""
    body, _ = HTMLExporter(template_name="basic", config=HIDDEN).from_filename(str(notebook))
    body = re.sub(r'<script type="application/json">.*?</script>', "", body, flags=re.S)  # for the site's charts alone
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{notebook.stem}</title>'
    page = notebook.with_suffix(".html")
    page.write_text(f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{body}</body></html>")
    return page


def main() -> None:
    """Command line."""
    for notebook in sorted(Path(sys.argv[1]).glob("*.ipynb")):
        page = notebook.with_suffix(".html")
        if not page.exists() or page.stat().st_mtime < notebook.stat().st_mtime:
            print(f"  page: {write(notebook)}")


if __name__ == "__main__":
    main()
