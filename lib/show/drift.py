"""Charts of chapter 8 on the zero sum: a mean logit that drifts, and what formulas foretell for Pythia's sizes."""

import altair as alt
import pandas as pd

from lib.show import charts

ARMS = {
    "fp16": "trained, fp16",
    "float32": "trained, float32",
    "free": "told: bias free",
    "held": "told: bias held",
}
DASHES = [[1, 0], [1, 0], [5, 4], [5, 4]]
FORMS = {"free": "bias free", "held": "bias held"}


def growth(frame: pd.DataFrame) -> alt.FacetChart:
    """Mean logit against summed learning rate, trained and told by two formulas, a panel for each batch.

    Columns: batch (tokens), arm (of ARMS), sum_lr, offset.
    """
    named = frame.assign(how=frame.arm.map(ARMS), tokens=frame.batch.map("{:,} tokens a step".format))
    order = list(ARMS.values())
    base = alt.Chart(named).encode(
        alt.X("sum_lr:Q", title="summed learning rate"),
        alt.Y("offset:Q", title="mean logit").scale(type="symlog", constant=5).axis(values=[-5, 0, 5, 20, 100, 500]),
        alt.Color("how:N", title=None, sort=order).scale(domain=order, range=charts.PALETTE).legend(columns=2),
        alt.StrokeDash("how:N", title=None, sort=order).scale(domain=order, range=DASHES).legend(columns=2),
        tooltip=["how", "sum_lr", alt.Tooltip("offset:Q", format=".3g")],
    )
    text = "Mean logit against summed learning rate, trained in fp16 and in float32, and as two formulas foretell"
    panels = base.mark_line().properties(width=230, height=220)
    return panels.facet(alt.Facet("tokens:N", title=None, sort=named.tokens.unique().tolist()), columns=2).properties(
        description=text
    )


def sizes(frame: pd.DataFrame, at: str) -> alt.LayerChart:
    """Mean logit foretold for the end of each size. Columns: at (taken: one), model, sum_lr, free, held."""
    shown = frame[frame["at"] == at].assign(size=lambda rows: rows.model.str.removeprefix("pythia-"))
    long = shown.melt(["size", "width", "sum_lr"], list(FORMS), "form", "offset").replace({"form": FORMS})
    order = shown.sort_values("width")["size"].tolist()
    base = alt.Chart(long).encode(
        alt.X("size:N", title="Pythia's size", sort=order).axis(labelAngle=0),
        alt.Y("offset:Q", title="mean logit at the end").scale(type="log"),
        alt.Color("form:N", title=None).scale(domain=list(FORMS.values()), range=charts.PALETTE[2:4]),
        alt.Shape("form:N", title=None, sort=list(FORMS.values())),
        tooltip=["size", "form", "sum_lr", alt.Tooltip("offset:Q", format=".3g")],
    )
    text = "Mean logit that two formulas foretell for the end of training of each size of Pythia"
    return base.mark_point(filled=True, size=60).properties(description=text, height=240)
