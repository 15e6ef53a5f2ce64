"""Charts of chapter 3: loss curves over seeds with the detector's verdict, and the size of the rise by width."""

import altair as alt
import pandas as pd

from lib.show import charts

KINDS = ["saturation", "spike", "still falling"]
LOOK = {
    "color": alt.Color("kind:N", title=None).scale(
        domain=KINDS, range=[charts.PALETTE[5], "#777777", charts.PALETTE[0]]
    ),
    "strokeDash": alt.StrokeDash("kind:N", title=None).scale(domain=KINDS, range=[[1, 0], [2, 2], [6, 3]]),
}
FLOPS = alt.X("flops:Q", title="FLOPs, 6NT").scale(type="log").axis(format=".0e", labelOverlap=True, grid=False)
LOSS = alt.Y("loss:Q", title=None).scale(zero=False)
CHECKPOINT = alt.Shape("checkpoint:N", title=None)
CROSS = {"shape": "cross", "filled": True, "size": 50, "angle": 45}
HIGHEST = 8  # per cent above the lowest loss; what is higher is cut


def over_seeds(curves: pd.DataFrame) -> alt.Chart:
    """Loss of each run above its lowest, in per cent, a panel for each model.

    Columns: model (in the order of its width), seed, step, above (per cent), kind.
    """
    order = list(dict.fromkeys(curves.sort_values("width").model))
    lines = alt.Chart(curves, description="Loss above its lowest over seeds, by model")
    return (
        lines.mark_line(strokeWidth=1.5, clip=True)
        .encode(
            alt.X("step:Q", title="step").axis(format="~s", tickCount=3),
            alt.Y("above:Q", title="above lowest, per cent").scale(domain=[0, HIGHEST]),
            detail="seed:N",
            tooltip=["model", "seed", "kind", "step", alt.Tooltip("above", format=".2f")],
            **LOOK,
        )
        .properties(width=150, height=120)
        .facet(alt.Facet("model:N", title=None, sort=order), columns=2)
        .properties(description="Loss of each public run above its lowest, a panel for each model, by verdict")
    )


def rise_by_width(runs: pd.DataFrame, models: pd.DataFrame) -> alt.LayerChart:
    """Each run's rise against width, and the mean over runs without a spike with its interval.

    `runs`: model, width, rise (per cent), kind. `models`: width, rise, rise_low, rise_high (per cent).
    """
    x = (
        alt.X("width:Q", title="hidden dimension")
        .scale(type="log", domain=[100, 1300])
        .axis(values=[128, 256, 512, 768, 1024])
    )
    y = alt.Y("rise:Q", title="rise of the loss, per cent").scale(domain=[-1, 16], clamp=True)
    dots = (
        alt.Chart(runs)
        .mark_point(opacity=0.7)
        .encode(
            x,
            y,
            LOOK["color"],
            alt.Shape("kind:N", title=None).scale(domain=KINDS),
            tooltip=["model", "seed", "kind", "rise"],
        )
    )
    means = alt.Chart(models)
    bars = means.mark_rule(strokeWidth=2).encode(x, alt.Y("rise_low:Q").scale(domain=[-1, 16]), alt.Y2("rise_high:Q"))
    middle = means.mark_tick(thickness=3, width=24, color=charts.INK).encode(x, y)
    return alt.layer(dots, bars, middle, description="Rise of the loss at the end against width: each run, and means")


def ours(curves: pd.DataFrame, ends: pd.DataFrame) -> alt.HConcatChart:
    """Figure 1 for the suite: loss against tokens with a band over seeds, and best and final losses against compute.

    curves: width, step, tokens, mean, min, max. ends: width, run, checkpoint, flops, loss, predicted (or NaN), gap.
    """
    pick = alt.selection_point(fields=["width"], bind="legend")
    colour = alt.Color("width:N", title="width", scale=charts.colours(curves.width)).legend(symbolOpacity=1)
    line = alt.Chart(curves).encode(alt.X("tokens:Q", title="tokens").axis(format="~s"), colour)
    left = line.mark_line().encode(
        alt.Y("mean:Q", title="loss, nats").scale(zero=False), opacity=_seen(pick), tooltip=["width", "step", "mean"]
    )
    band = line.mark_area(opacity=0.2).encode(alt.Y("min:Q"), alt.Y2("max:Q"), opacity=_seen(pick, 0.2, 0.02))
    dots = alt.Chart(ends).encode(FLOPS, colour, opacity=_seen(pick))
    right = dots.mark_point(filled=True, size=50).encode(LOSS, CHECKPOINT)
    law = dots.mark_point(**CROSS).encode(y="predicted:Q", tooltip=["run", "checkpoint", "loss", "predicted", "gap"])
    panels = band + left.add_params(pick), right + law if ends.predicted.notna().any() else right
    text = "Loss of the suite along training, and its best and final losses against compute."
    return alt.hconcat(*(panel.properties(width=230, height=260) for panel in panels), description=text)


def theirs(curves: pd.DataFrame, ends: pd.DataFrame) -> alt.HConcatChart:
    """The paper's Figure 1. curves: model, step, loss, source; ends: model, checkpoint, flops, loss, predicted."""
    pick = alt.selection_point(fields=["model"], bind="legend")
    shade = {"color": alt.Color("model:N", title=None, scale=charts.colours(ends.model)), "opacity": _seen(pick)}
    x, y = alt.X("step:Q", title="step").axis(format="~s"), alt.Y("loss:Q", title="loss, nats").scale(zero=False)
    tip = ["model", "step", "loss"]
    left = alt.Chart(curves).mark_line().encode(x, y, charts.SOURCE_DASH, tooltip=tip, **shade).add_params(pick)
    compute = alt.Chart(ends).encode(FLOPS, **shade)
    spots = compute.mark_point(size=50).encode(LOSS, CHECKPOINT, tooltip=["model", "checkpoint", "loss"])
    law = compute.transform_filter("isValid(datum.value)").mark_point(**CROSS)
    cross = law.encode(y="predicted:Q", tooltip=["model", "checkpoint", "loss", "predicted"])
    panels = (panel.properties(width=230, height=260) for panel in (left, spots + cross))
    text = "The paper's Figure 1: loss of Pythia along training, and best and final losses against compute."
    return alt.hconcat(*panels, description=text)


def parts_of_gap(parts: pd.DataFrame) -> alt.Chart:
    """Parts of the final gap, stacked. Columns: model, part (in their order), gap (log of loss over prediction)."""
    order = list(dict.fromkeys(parts.part))
    text = "Stacked bars: the parts of the final gap of Pythia 14M, 31M, 70M and 160M."
    return (
        alt.Chart(parts.assign(order=parts.part.map(order.index)), height=120, description=text)
        .mark_bar()
        .encode(
            alt.X("gap:Q", title="log of loss over prediction").axis(format=".0%"),
            alt.Y("model:N", title=None, sort=["14M", "31M", "70M", "160M"]),
            alt.Color("part:N", title=None, sort=order),
            order="order:Q",
            tooltip=["model", "part", alt.Tooltip("gap:Q", format=".2%")],
        )
    )


def _seen(pick, yes=1.0, no=0.08):
    """Opacity of what is picked in the legend, and of the rest."""
    return alt.condition(pick, alt.value(yes), alt.value(no))
