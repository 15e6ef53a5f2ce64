"""Altair theme of the book and an offline display of charts.

A chart is emitted as one mimebundle: `text/html` holds a static SVG, so that the page works with no JavaScript,
in print and in a feed reader, and beside it the Vega-Lite spec, from which `assets/charts.js` makes the
interactive view; `image/png` serves readers that show no HTML; `text/plain` is the alternative text.
Importing this module turns both on.
"""

import base64
import html
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable

import altair as alt
import vl_convert
from PIL import Image

INK = "currentColor"  # the page's text colour, so that one SVG serves light and dark
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#882255"]
SOURCES = ["this book", "paper"]

# Whose a curve is shows without colour: by its dashes, or by the shape of its points.
DASHES = {"this book": [1, 0], "public runs": [2, 2], "paper": [5, 4]}
SHAPES = {"this book": "square", "public runs": "triangle-up", "paper": "circle"}

# A model has one colour in all charts, whoever trained or measured it: the suite by width, Pythia by size.
SUITE = dict(zip(["8", "16", "32", "64", "128", "8-long"], PALETTE, strict=False))
PYTHIA = {
    "14m": "#CC6677",
    "31m": "#7A6FD0",
    "70m": "#B8A23C",
    "160m": "#2E8B57",
    "410m": "#4FA3D1",
    "1b": "#B04A80",
    "1.4b": "#2F9C95",
    "2.8b": "#999933",
    "6.9b": "#B565A7",
    "12b": "#8A8A8A",
}
SPARE = ["#AA4466", "#777777", "#B07D48", "#5C85D6", "#6B8E23", "#A65FD0"]  # for models that are neither

# Legends whose symbols are lines.
STROKES = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeColor": INK, "symbolFillColor": "transparent"}

# The paper's own curves, wherever they stand beside ours: dashed.
SOURCE_DASH = alt.StrokeDash(
    "source:N", title=None, scale=alt.Scale(domain=SOURCES, range=[DASHES[name] for name in SOURCES])
)


def colours(models: Iterable) -> alt.Scale:
    """Scale on which each model has its own colour, the same in every chart.

    Models are called as they are in frames: nano-8, suite:nano-8-seed0@last, a width of the suite, 14M, Pythia-14M,
    EleutherAI/pythia-14m-deduped. Finished models, arms of the suite and a second run of one model share the colours
    that are left, in the order in which they come.
    """
    spare, taken = itertools.cycle(SPARE), {}
    for name in dict.fromkeys(models):
        own = _own_colour(str(name))
        taken[name] = next(spare) if own is None or own in taken.values() else own
    return alt.Scale(domain=list(taken), range=list(taken.values()))


def _own_colour(name):
    """Colour of a model by its name or address, None for one that has none of its own."""
    stem = re.fullmatch(r"(?:.*[:/])?(.+?)(?:-seed\d+)?(?:@.*)?", name)[1]
    suite = re.fullmatch(r"(?:(?:nano|smoke)-)?(\d+(?:-long)?)", stem)
    pythia = re.fullmatch(r"(?:pythia-)?([\d.]+[mb])(?:-deduped)?", stem.lower())
    return SUITE.get(suite[1]) if suite else PYTHIA.get(pythia[1]) if pythia else None


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
    png = io.BytesIO()
    drawn = Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, scale=2)))
    drawn.quantize(256, method=Image.Quantize.FASTOCTREE).save(png, "PNG", optimize=True)  # a sixth of the bytes
    return {
        "text/html": text,
        "image/png": base64.b64encode(png.getvalue()).decode(),
        "text/plain": spec["description"],
    }


def markup(spec: dict) -> str:
    """HTML of a Vega-Lite spec: a static SVG, and the spec itself. Raises ValueError without a description."""
    description = spec.get("description")
    if not description:
        raise ValueError("a chart has no description; pass description= to alt.Chart: it is read aloud to the blind")
    svg = vl_convert.vegalite_to_svg(spec)
    svg = re.sub(r' (?:aria-[\w-]+|role)="[^"]*"', "", svg)  # the box says it all, and once
    svg = re.sub(r'(id="|url\(#)', rf"\g<1>v{zlib.crc32(svg.encode()):x}-", svg)  # ids stay unique on a page
    data = json.dumps(spec).replace("<", "\\u003c")  # keeps `</script>` out of the element
    return (
        f'<div class="vl-chart" role="img" aria-label="{html.escape(description)}">{svg}'
        f'<script type="application/json">{data}</script></div>'
    )


alt.renderers.register("paper", bundle)
alt.renderers.enable("paper")
alt.data_transformers.disable_max_rows()
