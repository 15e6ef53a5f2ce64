"""Altair theme of the book and an offline display of charts.

A chart is emitted as one mimebundle: `text/html` holds a static SVG, so that the page works with no JavaScript,
in print and in a feed reader, and beside it the Vega-Lite spec, from which `assets/charts.js` makes the
interactive view; `image/png` serves readers that show no HTML; `text/plain` is the alternative text.
Importing this module turns both on.
"""

import base64
import html
import json
import re
import zlib

import altair as alt
import vl_convert

INK = "currentColor"  # the page's text colour, so that one SVG serves light and dark
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#882255"]
SOURCES = ["this book", "paper"]

# Legends whose symbols are lines.
STROKES = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeColor": INK, "symbolFillColor": "transparent"}

# The paper's own curves, wherever they stand beside ours: dashed.
SOURCE_DASH = alt.StrokeDash("source:N", title=None, scale=alt.Scale(domain=SOURCES, range=[[1, 0], [5, 4]]))


@alt.theme.register("paper", enable=True)
def paper():
    """Theme: transparent, the page's ink, legends on top, a palette safe for colour-blind readers."""
    text = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
    }
    return alt.theme.ThemeConfig(
        {
            "config": {
                "background": "transparent",
                "font": "sans-serif",
                "view": {"stroke": None, "continuousWidth": 520, "continuousHeight": 280},
                "axis": {**text, "domainColor": INK, "tickColor": INK, "gridColor": INK, "gridOpacity": 0.15},
                "legend": {
                    **text,
                    "orient": "top",
                    "labelLimit": 240,
                    "columns": 4,
                    "symbolStrokeWidth": 2,
                    "symbolBaseFillColor": INK,
                    "symbolBaseStrokeColor": INK,
                },
                "header": text,
                "title": {"color": INK, "anchor": "start", "fontSize": 13, "fontWeight": "normal"},
                "text": {"color": INK},
                "rule": {"color": INK},
                "range": {"category": PALETTE},
            }
        }
    )


def bundle(spec, **_):
    """Mimebundle of a Vega-Lite spec: `markup`, PNG, and the description as plain text."""
    text = markup(spec)
    png = vl_convert.vegalite_to_png(spec, scale=2)
    return {"text/html": text, "image/png": base64.b64encode(png).decode(), "text/plain": spec["description"]}


def markup(spec: dict) -> str:
    """HTML of a Vega-Lite spec: a static SVG, and the spec itself. Raises ValueError without a description."""
    description = spec.get("description")
    if not description:
        raise ValueError("a chart has no description; pass description= to alt.Chart: it is read aloud to the blind")
    svg = vl_convert.vegalite_to_svg(spec)
    svg = re.sub(r'(id="|url\(#)', rf"\g<1>v{zlib.crc32(svg.encode()):x}-", svg)  # ids stay unique on a page
    data = json.dumps(spec).replace("<", "\\u003c")  # keeps `</script>` out of the element
    return (
        f'<div class="vl-chart" role="img" aria-label="{html.escape(description)}">{svg}'
        f'<script type="application/json">{data}</script></div>'
    )


alt.renderers.register("paper", bundle)
alt.renderers.enable("paper")
alt.data_transformers.disable_max_rows()
