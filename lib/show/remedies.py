"""Pictures of heads beside linear ones: differences with intervals, and losses beside the curve of linear models."""

import altair as alt
import pandas as pd

from lib.show import charts

RULES = ["parameters", "time"]
# One fewer than the palette has colours, so that no two heads are alike in both.
SHAPES = ["circle", "square", "triangle-up", "cross", "diamond", "triangle-right", "triangle-down"]


def differences(frame: pd.DataFrame, worth: float) -> alt.FacetChart:
    """Loss of each head less a linear model's, by rule, a panel for each body; shaded, less than is worth it.

    Columns: body (words), head, rule, value, low, high (nats).
    """
    frame = frame.assign(worth=worth)
    order = list(dict.fromkeys(frame["head"]))
    y = alt.Y("head:N", title=None, sort=order).axis(labelLimit=120)
    offset = alt.YOffset("rule:N", sort=RULES)
    colour = alt.Color("rule:N", title="the same", sort=RULES, scale=alt.Scale(domain=RULES, range=charts.PALETTE[:2]))
    base = alt.Chart(frame)
    ticks = [-1, -0.1, 0, 0.1, 1]
    x = alt.X("value:Q", title="difference in loss, nats").scale(type="symlog", constant=worth)
    x = x.axis(values=ticks, format="~g")
    band = base.transform_aggregate(most="max(worth)", groupby=["body"]).transform_calculate(least="-datum.most")
    band = band.mark_rect(opacity=0.12, color=charts.INK).encode(alt.X("least:Q"), alt.X2("most:Q"))
    line = base.mark_rule(strokeWidth=2, aria=False).encode(alt.X("low:Q"), alt.X2("high:Q"), y, offset, colour)
    tooltip = ["head", "rule", *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in ("value", "low", "high"))]
    shape = alt.Shape("rule:N", title="the same", sort=RULES, scale=alt.Scale(domain=RULES))
    point = base.mark_point(filled=True, size=45, opacity=1).encode(x, y, offset, colour, shape, tooltip=tooltip)
    text = "Held-out loss of each head less that of a linear model with the same parameters or the same time for a step"
    layered = alt.layer(point, band, line).properties(width=215, height=alt.Step(13))
    return layered.facet(
        facet=alt.Facet("body:N", title=None, sort=list(dict.fromkeys(frame.body))), columns=2
    ).properties(description=text)


def curve(frame: pd.DataFrame, cost: str, title: str) -> alt.FacetChart:
    """Loss against a cost: linear models of several widths as a line, the other heads as points.

    Columns: base, head, loss, and the cost.
    """
    frame = frame.assign(body="beside width " + frame.base.astype(str))
    heads = [kind for kind in dict.fromkeys(frame["head"]) if kind != "linear"]
    base = alt.Chart(frame).encode(
        alt.X(f"{cost}:Q", title=title).scale(type="log", nice=False).axis(format="~s", tickCount=4),
        alt.Y("loss:Q", title="held-out loss, nats").scale(zero=False),
        tooltip=["head", "width", alt.Tooltip(f"{cost}:Q", format=",.4~g"), alt.Tooltip("loss:Q", format=".3f")],
    )
    linear = base.mark_line(point=True, color=charts.INK).transform_filter("datum.head == 'linear'")
    scale, shapes = alt.Scale(domain=heads, range=charts.PALETTE), alt.Scale(domain=heads, range=SHAPES)
    look = {
        "color": alt.Color("head:N", title=None, scale=scale),
        "shape": alt.Shape("head:N", title=None, scale=shapes),
    }
    others = base.mark_point(size=60, strokeWidth=2).encode(**look).transform_filter("datum.head != 'linear'")
    text = f"Held-out loss against {title}: linear models as a line, other heads as points"
    panels = alt.layer(linear, others).properties(width=230, height=220)
    faceted = panels.facet(facet=alt.Facet("body:N", title=None), columns=2).properties(description=text)
    return faceted.resolve_scale(x="independent")
