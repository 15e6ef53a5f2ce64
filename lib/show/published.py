"""Published curves beside ours: events along training, second singular values over the first, recipes of one width."""

import altair as alt
import pandas as pd

from lib.show import charts

DASH = charts.SOURCE_DASH.legend(None)  # the names of the models say whose they are, and a phone is narrow
RECIPES = {True: "other batch or first release", False: "as in the paper"}
SHARE = alt.X("share:Q", title="share of the run").axis(format=".0%")


def events(frame: pd.DataFrame, description: str) -> alt.LayerChart:
    """Figure 3 as events: model, source, event, share (of the run), joined for each model."""
    kinds = list(frame.event.unique())
    y = alt.Y("model:N", title=None, sort=list(frame.model.unique()))
    base = alt.Chart(frame, height=22 * frame.model.nunique()).encode(x=SHARE, y=y)
    line = base.mark_line(color=charts.INK, opacity=0.4).encode(order="share:Q", detail="model:N", strokeDash=DASH)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        color=alt.Color("event:N", title=None).scale(domain=kinds).legend(columns=1),
        shape=alt.Shape("event:N", title=None).scale(domain=kinds).legend(columns=1),
        tooltip=["source", "model", "event", alt.Tooltip("share", format=".1%")],
    )
    return alt.layer(line, dots, description=description)


def second_over_first(ours: pd.DataFrame, theirs: pd.DataFrame, description: str) -> alt.LayerChart:
    """Figure 4 as one curve a model: model, share (of the run), ratio; the paper's points on the same axes."""
    y = alt.Y("ratio:Q", title="second singular value over the first").scale(domain=[0, 1])
    scale = charts.colours([*ours.model, *theirs.model])
    color = alt.Color("model:N", title=None, scale=scale).legend(columns=2)
    tip = ["source", "model", alt.Tooltip("share", format=".0%"), alt.Tooltip("ratio", format=".3f")]
    lines = alt.Chart(ours, description=description).mark_line().encode(SHARE, y, color, DASH, tooltip=tip)
    points = alt.Chart(theirs).mark_line(point=True).encode(SHARE, y, color, DASH, tooltip=tip)
    return alt.layer(lines, points, description=description)


def recipes(frame: pd.DataFrame) -> alt.Chart:
    """Final over best perplexity of Pythia's variants: run, best, final, ratio, recipe (of RECIPES)."""
    x = alt.X("ratio:Q", title="final / best perplexity").scale(zero=False)
    text = "Final over best LAMBADA perplexity of Pythia variants, by recipe."
    base = alt.Chart(frame, height=260, description=text).mark_point(filled=True, size=70)
    look = {"color": alt.Color("recipe:N", title=None), "shape": alt.Shape("recipe:N", title=None)}
    return base.encode(x, alt.Y("run:N", title=None, sort="x"), tooltip=["run", "best", "final"], **look)
