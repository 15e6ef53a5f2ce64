"""A list of blocks as one HTML file that loads nothing: charts are pictures, and live where JavaScript runs.

A block is one of the small classes below; the numbers behind them lie as JSON beside the page.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert

from lib.show import charts, page, tables

ASSETS = Path(__file__).parent / "assets"
COLOURS = """
:root { color-scheme: light dark; --pst-color-text-base: light-dark(#222, #ddd);
  --pst-color-surface: light-dark(#f4f4f4, #242424); --pst-color-border: light-dark(#ccc, #555); }
figure { margin-inline: 0; } figcaption { font-size: .9rem; }
table.book-table { display: table; }
"""


@dataclass(frozen=True)
class Heading:
    """The title of a part of the page."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A data frame, with `digits` as `show.tables.table` takes them."""

    frame: pd.DataFrame
    digits: dict | None = None


@dataclass(frozen=True)
class Chart:
    """A chart that has a description, and what is seen in it."""

    chart: alt.TopLevelMixin
    caption: str = ""


Block = Heading | Paragraph | Bullets | Table | Chart


def write(path: Path, title: str, blocks: Sequence[Block], numbers: dict) -> Path:
    """Write the page, which works from `file://`, and its numbers beside it as PATH with the ending .json.

    numbers: JSON values, among them `schema` (a name) and `version`. Raises ValueError for something that is no block,
    or numbers without these.
    """
    if missing := {"schema", "version"} - set(numbers):
        raise ValueError(
            f"the numbers of a page lack {', '.join(sorted(missing))}: say what they are, and in which form"
        )
    body = "\n".join(markup(block) for block in blocks)
    style = page.STYLE + COLOURS + (ASSETS / "paper.css").read_text()
    live = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    script = f"(() => {{{live}}})();\n{(ASSETS / 'charts.js').read_text()}"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{html.escape(title)}</title><style>{style}</style>"
    body = f"<main><h1>{html.escape(title)}</h1>\n{body}</main>\n<script>{script}</script>"
    path.parent.mkdir(parents=True, exist_ok=True)
    _put(path.with_suffix(".json"), json.dumps(numbers, indent=1, allow_nan=False))
    return _put(path, f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>")


def markup(block: Block) -> str:
    """HTML of one block."""
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Table(frame, digits):
            return tables.table(frame, digits).markup
        case Chart(chart, caption):
            below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
            return f"<figure>{charts.markup(chart.to_dict())}{below}</figure>"
    raise ValueError(
        f"a {type(block).__name__} is no block of a page: expected Heading, Paragraph, Bullets, Table, Chart"
    )


def _put(path, text):
    scratch = path.with_name(f"{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    return scratch.replace(path)
