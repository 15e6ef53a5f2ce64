"""A list of blocks as one HTML file that loads nothing: charts are pictures, and live where JavaScript runs.

A block is a kind and its content: heading and text (a string), list (of strings), table (a data frame), chart (Altair).
"""

import html
from collections.abc import Sequence
from pathlib import Path

import vl_convert

from lib.show import charts, page
from lib.show.tables import table

ASSETS = Path(__file__).parent / "assets"
COLOURS = """
:root { color-scheme: light dark; --pst-color-text-base: light-dark(#222, #ddd);
  --pst-color-surface: light-dark(#f4f4f4, #242424); --pst-color-border: light-dark(#ccc, #555); }
"""


def write(title: str, blocks: Sequence[tuple[str, object]], path: Path) -> Path:
    """Write the page; it works from `file://`. Raises ValueError for a kind of block that there is not."""
    body = "\n".join(_markup(kind, content) for kind, content in blocks)
    style = page.STYLE + COLOURS + (ASSETS / "paper.css").read_text()
    live = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    script = f"(() => {{{live}}})();\n{(ASSETS / 'charts.js').read_text()}"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{html.escape(title)}</title><style>{style}</style>"
    body = f"<main><h1>{html.escape(title)}</h1>\n{body}</main>\n<script>{script}</script>"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>", encoding="utf-8")
    return scratch.replace(path)


def _markup(kind, content):
    if kind == "heading":
        return f"<h2>{html.escape(content)}</h2>"
    if kind == "text":
        return f"<p>{html.escape(content)}</p>"
    if kind == "list":
        return "<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in content) + "</ul>"
    if kind == "table":
        return table(content).markup
    if kind == "chart":
        return f"<figure>{charts.markup(content.to_dict())}</figure>"
    raise ValueError(f"there is no block of the kind {kind!r}: expected heading, text, list, table or chart")
