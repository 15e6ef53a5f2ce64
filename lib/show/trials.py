"""Charts of training runs by arm: losses, mean logits and what else is followed, with bands over seeds."""

import altair as alt
import pandas as pd

from lib.show import charts

PANELS = {
    "loss": alt.Y("value:Q", title="loss, nats").scale(zero=False),
    "gap": alt.Y("value:Q", title="loss less entropy, nats").scale(type="log", nice=False),
    "gap_fp16": alt.Y("value:Q", title="less entropy, in fp16, nats").scale(type="log", nice=False),
    "offset": alt.Y("value:Q", title="mean logit").scale(type="symlog", constant=10),
    "anisotropy": alt.Y("value:Q", title="anisotropy"),
    "entropy": alt.Y("value:Q", title="singular entropy, nats"),
    "entropy_centred": alt.Y("value:Q", title="centred, nats"),
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


def doses(frame: pd.DataFrame) -> alt.HConcatChart:
    """Rise of the loss against the dose, and against the width. Columns: width, learning_rate, kappa, dose, rise."""
    frame = frame.assign(width=frame.width.astype(str))
    order = sorted(frame.width.unique(), key=int)
    look = {"color": alt.Color("width:N", title="width d", sort=order), "shape": alt.Shape("width:N", sort=order)}
    base = (
        alt.Chart(frame)
        .mark_point(filled=True, size=60)
        .encode(
            alt.Y("rise:Q", title="largest rise, nats").scale(type="symlog", constant=0.01),
            tooltip=["width", "learning_rate", "kappa", alt.Tooltip("dose:Q", format=".3g"), "rise"],
            **look,
        )
    )
    by_dose = base.encode(alt.X("dose:Q", title="δ × summed learning rate").scale(type="log"))
    by_width = base.encode(alt.X("width:N", title="width d", sort=order))
    panels = by_dose.properties(width=330, height=240), by_width.properties(width=120, height=240)
    return alt.hconcat(*panels, description="Rise of the loss against the dose, and against the width")


def costs(frame: pd.DataFrame) -> alt.LayerChart:
    """What rounding costs at an offset, measured and by the formula. Columns: format, offset, cost, expected."""
    sources = {"cost": "measured", "expected": "c s²/24"}
    long = frame.melt(["format", "offset"], list(sources), "source", "nats").replace({"source": sources})
    long = long[long.nats > 0]
    look = alt.Color("format:N", title=None)
    x = alt.X("offset:Q", title="offset of the logits").scale(type="log", base=2)
    y = alt.Y("nats:Q", title="cost, nats").scale(type="log")
    base = alt.Chart(long).encode(x, y, look, tooltip=["format", "offset", "source", "nats"])
    dash = alt.StrokeDash(
        "source:N", title=None, scale=alt.Scale(domain=list(sources.values()), range=[[1, 0], [5, 4]])
    )
    text = "Loss that rounding logits costs at an offset, in fp16 and bf16, measured and by the formula"
    points = base.mark_point(filled=True).transform_filter("datum.source=='measured'")
    return alt.layer(base.mark_line().encode(dash), points, description=text)


def climbs(frame: pd.DataFrame, levels: pd.DataFrame) -> alt.VConcatChart:
    """The mean logit along training, and below it what rounding costs, over dashed levels that fp16's spacing predicts.

    Columns of the frame: arm, step, offset, cost; of the levels: offset, cost. What lies below the levels is left out,
    unless all of it does.
    """
    high = frame.offset.max() > levels.offset.min()
    arms = list(dict.fromkeys(frame.arm[frame.offset > levels.offset.min()] if high else frame.arm))
    x = alt.X("step:Q", title="update").axis(format=",d")
    colour = alt.Color("arm:N", title=None, sort=arms).scale(range=charts.PALETTE).legend(columns=2, symbolOpacity=1)
    panels = []
    for name, title in {"offset": "mean logit", "cost": "cost of rounding, nats"}.items():
        shown = frame[frame.arm.isin(arms) & (frame[name] > levels[name].min() if high else True)]
        log = {"type": "log", "base": 2 if name == "offset" else 10, "nice": False}
        y = alt.Y(f"{name}:Q", title=title).scale(**(log if high else {}))
        lines = alt.Chart(shown).mark_line(opacity=0.8).encode(x, y, colour)
        rules = (
            alt.Chart(levels[levels[name] < 2 * frame[name].max() if high else levels[name] > 0])
            .mark_rule(strokeDash=[4, 4])
            .encode(y)
        )
        panels.append((rules + lines).properties(width=480, height=190))
    return alt.vconcat(*panels, description=f"Mean logit and cost of rounding along training: {'; '.join(arms)}")


def sliders(frame: pd.DataFrame) -> alt.VConcatChart:
    """Gap and mean logit along training, for a kappa and a learning rate that the reader sets, over all others in grey.

    Columns: rate, power (log2 of kappa), step, gap, offset.
    """
    powers, rates = sorted(frame.power.unique()), sorted(frame.rate.unique())
    slider = alt.binding_range(min=int(powers[0]), max=int(powers[-1]), step=int(powers[1] - powers[0]), name="log₂ κ ")
    power = alt.param("power", value=int(powers[0]), bind=slider)
    rate = alt.param("rate", value=rates[1], bind=alt.binding_select(options=list(rates), name="learning rate "))
    chosen = (alt.datum.power == power) & (alt.datum.rate == rate)
    x = alt.X("step:Q", title="update").axis(format=",d")
    panels = []
    for quantity in ("gap", "offset"):
        y = PANELS[quantity].copy()
        y.shorthand = f"{quantity}:Q"
        base = alt.Chart(frame).encode(x, y)
        every = base.mark_line(color="grey", opacity=0.25, strokeWidth=1).encode(detail=["power:N", "rate:N"])
        one = base.mark_line(strokeWidth=3, color=charts.PALETTE[0]).transform_filter(chosen)
        panels.append((every + one).properties(width=480, height=150))
    text = "Gap and mean logit of the bigram model along training, by kappa and learning rate"
    return alt.vconcat(*panels, description=text).add_params(power, rate)
