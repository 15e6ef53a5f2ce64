"""Charts of chapter 8 on public curves: rises against width and learning rate, twins, and stairs in the loss."""

import altair as alt
import numpy as np
import pandas as pd

from lib.show import charts

LOWEST = 0.001  # nats: below it an excess can't be told from noise
MODELS = ["14m", "31m", "70m", "160m"]
RELEASES = alt.Color("release:N", title="release").scale(
    domain=["v1", "v0"], range=[charts.PALETTE[5], charts.PALETTE[0]]
)
KINDS = {"stairs": "stairs, beside a smooth drift", "both": "stairs and jumps, beside jumps"}


def rises(frame: pd.DataFrame) -> alt.HConcatChart:
    """Rise of each curve against width and against the summed learning rate, side by side.

    Columns: model, curve (training loss or LAMBADA), release, width, sum_lr, rise (nats).
    """
    points = alt.Chart(frame).mark_point(opacity=0.7, size=40)
    y = (
        alt.Y("rise:Q", title="rise, nats")
        .scale(type="symlog", constant=0.02)
        .axis(values=[0, 0.02, 0.1, 0.3], format=".2~f")
    )
    shape = alt.Shape("curve:N", title=None)
    tips = ["model", "release", "curve", "width", "sum_lr", alt.Tooltip("rise:Q", format=".3f")]
    width = (
        alt.X("width:Q", title="hidden dimension").scale(type="log", domain=[110, 6000]).axis(values=[128, 512, 2048])
    )
    rate = (
        alt.X("sum_lr:Q", title="learning rate summed over updates")
        .scale(type="log", domain=[7, 90])
        .axis(values=[8, 16, 24, 47, 79], format=".0f")
    )
    panels = [
        points.encode(x, y, RELEASES, shape, tooltip=tips).properties(width=230, height=220) for x in (width, rate)
    ]
    text = "Rise of loss and of log perplexity against width, and against the summed learning rate: two like pictures"
    return alt.hconcat(*panels, description=text)


def twins(frame: pd.DataFrame, largest: float) -> alt.LayerChart:
    """Rises of the two releases of each model, a line between them, and a rule at the largest of the yardsticks.

    Columns: twin (name, in order), release, rise, low, high (nats).
    """
    y = alt.Y("twin:N", title=None, sort=list(dict.fromkeys(frame.twin)))
    x = alt.X("rise:Q", title="rise of log perplexity, nats")
    base = alt.Chart(frame).encode(y, alt.YOffset("release:N"), RELEASES)
    bars = base.mark_rule(opacity=0.6).encode(alt.X("low:Q"), alt.X2("high:Q"))
    dots = base.mark_point(filled=True, size=45).encode(x, tooltip=["twin", "release", "rise", "low", "high"])
    line = alt.Chart(pd.DataFrame({"rise": [largest]})).mark_rule(strokeDash=[4, 3]).encode(alt.X("rise:Q"))
    text = "Rise of log LAMBADA perplexity of each model in both releases, with intervals and a yardstick"
    return alt.layer(bars, dots, line, description=text).properties(height=280)


def stairs(excesses: pd.DataFrame, levels: pd.DataFrame) -> alt.FacetChart:
    """Excess of every run on a logarithmic axis, a panel for each model, with the predicted levels as rules.

    Columns: model, seed, step, excess (nats, above 0); levels: offset, nats.
    """
    y = alt.Y("excess:Q", title="above 410M's shape, nats").scale(type="log", domain=[LOWEST, 0.6], clamp=True)
    lines = (
        alt.Chart()
        .mark_line(clip=True, strokeWidth=1.2, opacity=0.6)
        .encode(
            alt.X("step:Q", title="step").axis(format="~s", tickCount=4),
            y.axis(values=[0.001, 0.01, 0.1]),
            color=alt.Color("seed:N", legend=None).scale(range=charts.PALETTE),
            tooltip=["model", "seed", "step", alt.Tooltip("excess:Q", format=".4f")],
        )
    )
    rules = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(alt.Y("nats:Q"), tooltip=["offset", "nats"])
    every = excesses[["model"]].drop_duplicates().merge(levels, how="cross")
    both = pd.concat([excesses, every], ignore_index=True)
    text = "Excess of the loss of 31 public runs on a logarithmic axis, with the levels predicted for fp16"
    return (
        alt.layer(lines, rules, data=both)
        .properties(width=250, height=170)
        .facet(alt.Facet("model:N", title=None, sort=[f"pythia-{size}" for size in MODELS]), columns=2)
        .properties(description=text)
    )


def profile(frame: pd.DataFrame) -> alt.LayerChart:
    """Gain of levels over none against the factor by which they are shifted, with a band over runs.

    Columns: kind (stairs or both), shift, gain, low, high (nats a run).
    """
    named = frame.assign(kind=frame.kind.map(KINDS))
    base = alt.Chart(named).encode(
        alt.X("shift:Q", title="levels times").scale(type="log", domain=[1, 4]).axis(values=[1, 1.41, 2, 2.83, 4]),
        alt.Color("kind:N", title=None).scale(domain=list(KINDS.values())).legend(columns=1),
    )
    band = base.mark_area(opacity=0.2).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    line = base.mark_line(point=True).encode(alt.Y("gain:Q", title="held-out log-likelihood, nats a run"))
    zero = alt.Chart(pd.DataFrame({"gain": [0]})).mark_rule(opacity=0.6).encode(alt.Y("gain:Q"))
    text = "Held-out log-likelihood of levels over none, against the factor by which the levels are shifted"
    return alt.layer(band, line, zero, description=text).properties(height=220)


def departures(frame: pd.DataFrame, ends: pd.DataFrame) -> alt.HConcatChart:
    """When each narrow run leaves 410M's shape, by updates and by summed learning rate.

    frame: model, width, step, sum_lr (infinite for a run that never does, which is left out). ends: model, sum_lr.
    """
    gone = frame[np.isfinite(frame.step)]
    order = gone.sort_values("width").model.unique().tolist()
    y = alt.Y("model:N", title=None, sort=order)
    base = alt.Chart(gone).mark_point(filled=True, size=45, opacity=0.7)
    tips = ["model", "seed", "step", alt.Tooltip("sum_lr:Q", format=".1f")]
    by_step = base.encode(alt.X("step:Q", title="update").scale(domainMin=0).axis(format="~s"), y, tooltip=tips)
    by_sum = base.encode(alt.X("sum_lr:Q", title="summed learning rate").scale(domainMin=0), y, tooltip=tips)
    end = alt.Chart(ends[ends.model == "pythia-410m"]).mark_rule(strokeDash=[5, 4]).encode(alt.X("sum_lr:Q"))
    panels = by_step.properties(width=230, height=150), (by_sum + end).properties(width=230, height=150)
    text = "Departure of each narrow run from 410M's shape, by update and by summed learning rate, with 410M's end"
    return alt.hconcat(*panels, description=text)
