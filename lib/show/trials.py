"""Charts of training runs by arm: losses, mean logits and what else is followed, with bands over seeds."""

import altair as alt
import pandas as pd

from lib.show import charts

PANELS = {
    "loss": alt.Y("value:Q", title="loss, nats").scale(zero=False),
    "gap": alt.Y("value:Q", title="loss less entropy, nats").scale(type="log", nice=False),
    "offset": alt.Y("value:Q", title="mean logit").scale(type="symlog", constant=10),
    "anisotropy": alt.Y("value:Q", title="anisotropy"),
}


def training(frame: pd.DataFrame) -> alt.VConcatChart:
    """Panels along training, one below the other, a line for each arm with a band over its seeds.

    Columns: arm, quantity (of PANELS), step, value, low, high.
    """
    arms = list(dict.fromkeys(frame.arm))
    scale, legend = alt.Scale(domain=arms, range=charts.PALETTE), alt.Legend(columns=3, symbolOpacity=1)
    colour = alt.Color("arm:N", title=None, sort=arms, scale=scale, legend=legend)
    x = alt.X("step:Q", title="update").axis(format=",d")
    panels = []
    for quantity in dict.fromkeys(frame.quantity):
        base = alt.Chart(frame[frame.quantity == quantity]).encode(x, PANELS[quantity], colour)
        band = base.mark_area(opacity=0.2).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
        line = base.mark_line().encode(tooltip=["arm", "step", alt.Tooltip("value:Q", format=".4g")])
        panels.append((band + line).properties(width=480, height=150))
    text = f"{', '.join(dict.fromkeys(frame.quantity))} along training, by arm: {'; '.join(arms)}"
    return alt.vconcat(*panels, description=text)
