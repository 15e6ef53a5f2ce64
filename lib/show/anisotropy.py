"""Charts of chapter 4.1: anisotropy against layer, width and number of tokens."""

import altair as alt
import pandas as pd

from lib.show import charts

CORPUS = alt.Color("corpus:N", title=None).legend(symbolOpacity=1)


def by_layer(frame: pd.DataFrame) -> alt.LayerChart:
    """Anisotropy against layer. Columns: corpus, layer, final_norm, tokens, anisotropy, low, high."""
    base = alt.Chart(frame).encode(alt.X("layer:Q", title="layer (0: embeddings)"), CORPUS)
    before = base.transform_filter("!datum.final_norm")
    after = base.transform_filter("datum.final_norm")
    band = before.mark_area(opacity=0.2).encode(alt.Y("low:Q", title="anisotropy"), alt.Y2("high:Q"))
    line = before.mark_line().encode(alt.Y("anisotropy:Q"))
    bars = after.mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    square = after.mark_square(size=70).encode(
        alt.Y("anisotropy:Q"), tooltip=["corpus", "tokens", "anisotropy", "low", "high"]
    )
    text = "Anisotropy against layer by corpus; squares after the final norm"
    return alt.layer(band, line, bars, square, description=text)


def by_width(frame: pd.DataFrame, width: int, level: float) -> alt.LayerChart:
    """The paper's Figure 2 as points: family, model, width, anisotropy, source; lines at a width and a level."""
    dots = (
        alt.Chart(frame)
        .mark_point(size=80)
        .encode(
            alt.X("width:Q", title="hidden dimension").scale(type="log"),
            alt.Y("anisotropy:Q", title="last-layer anisotropy").scale(domain=[-0.05, 1]),
            alt.Color("family:N", title=None),
            alt.Shape("source:N", title=None).scale(domain=charts.SOURCES, range=["square", "circle"]),
            tooltip=["family", "model", "width", "anisotropy", "source"],
        )
    )
    upright = alt.Chart(pd.DataFrame({"width": [width]})).mark_rule(strokeDash=[2, 3]).encode(x="width:Q")
    across = alt.Chart(pd.DataFrame({"anisotropy": [level]})).mark_rule(strokeDash=[2, 3]).encode(y="anisotropy:Q")
    text = "Last-layer anisotropy against hidden dimension by family of models"
    return alt.layer(dots, upright, across, description=text)


def by_tokens(frame: pd.DataFrame) -> alt.LayerChart:
    """How an estimate settles. Columns: corpus, documents, tokens, anisotropy, low, high."""
    base = alt.Chart(frame).encode(alt.X("tokens:Q").scale(type="log"), CORPUS)
    y = alt.Y("low:Q", title="anisotropy").scale(domain=[-0.2, 1])
    band = base.mark_area(opacity=0.15, clip=True).encode(y, alt.Y2("high:Q"))
    tip = ["corpus", "documents", "tokens", "anisotropy", "low", "high"]
    line = base.mark_line(point=True).encode(alt.Y("anisotropy:Q"), tooltip=tip)
    return alt.layer(band, line, description="Anisotropy of the last layer against number of tokens, by corpus")
