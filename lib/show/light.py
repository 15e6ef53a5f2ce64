"""What keeps the site light: specs of charts in a file beside each page, downloads without what they can't show."""

import json
from pathlib import Path

from lib.show.notebooks import CHART

DIGITS = 6  # of the numbers that a chart draws; the CSV of a figure has them all
FILL = """{const specs = [%s];
const empty = document.querySelectorAll("script[data-spec]");
for (const one of empty) one.textContent = JSON.stringify(specs[one.dataset.spec]);}
"""


def move_specs(app, pagename, templatename, context, doctree):
    """Put the specs of a page's charts into `_charts/PAGE.js`, which gives them back before charts are made live."""
    if app.builder.name != "html" or "vl-chart" not in context.get("body", ""):
        return
    specs = []

    def moved(chart):
        specs.append(slim(chart["spec"]))
        return f'{chart["box"]}<script type="application/json" data-spec="{len(specs) - 1}"></script>'

    body = CHART.sub(moved, context["body"])
    if specs:
        path = Path(app.outdir, "_charts", f"{pagename}.js")
        path.parent.mkdir(exist_ok=True)
        path.write_text(FILL % ",\n".join(specs), encoding="utf-8")
        context["body"] = f'{body}<script defer src="_charts/{pagename}.js"></script>'


def slim(text: str) -> str:
    """A spec with what it draws: columns that nothing in it names are left out, and digits that no screen shows."""
    spec = json.loads(text)
    datasets = spec.pop("datasets", {})
    rest = json.dumps(spec)
    if datasets:
        spec["datasets"] = {
            name: [{column: _rounded(value) for column, value in row.items() if column in rest} for row in rows]
            for name, rows in datasets.items()
        }
    return json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")


def _rounded(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def lighten(app, exception):
    """Take drawings out of the notebooks to download, whose PNG shows there, and what no browser asks of the theme."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for kind in ("*.map", "*.ttf"):  # of the icons' font there is a .woff2 too
        for path in (out / "_static").rglob(kind):
            path.unlink()
    for path in (out / "_sources").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for data in (output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", ())):
            if "image/png" in data and 'class="vl-chart"' in "".join(data.get("text/html", "")):
                del data["text/html"]  # Jupyter would show it without its drawing
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def setup(app):
    """Register with Sphinx."""
    app.connect("html-page-context", move_specs, priority=950)  # when the page is mended
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
