"""Charts of chapter 5.2: the lemmas and the theorem on drawn problems, and what is proved of a real head."""

import altair as alt
import numpy as np
import pandas as pd

from lib.show import charts

NATS = "nats per token"
SAMPLE_DASH = alt.StrokeDash("sample:N", title=None, sort=["held out", "in sample"]).legend(**charts.STROKES)
GAP = {
    "gap": "gap of the best head found",
    "truncated": "gap of the truncated head",
    "confident": "bound with χ",
    "squared": "bound ¼ T",
    "paper": "Theorem 5.3, its constant added",
}
BOUNDS = {
    "first_order": "Lemma 5.1, √2 |JD|",
    "norm": "¼ |JD|²",
    "range": "range² / 8 (Hoeffding)",
    "bennett": "Bennett",
    "divergence": "measured KL",
    "local": "½ Var D (no bound)",
    "floor": "lower bound",
}
PREDICTIONS = {
    "quarter_tail": "bound ¼ T",
    "uniform_tail": "uniform softmax, T / 2V",
    "unigram_tail": "the same, aligned with frequencies",
    "divergence": "measured KL",
}
SANDWICH = {
    "above": "bound by φ⁺",
    "above_tail": "½ tail with φ⁺",
    "divergence": "measured KL",
    "below_tail": "½ tail with φ⁻",
    "below": "bound by φ⁻",
}


def small_changes(moves: pd.DataFrame) -> alt.LayerChart:
    """Change of the loss against the size of the change of the head, with sliders; a result of `perturbations`."""
    moves = moves.assign(exponent=np.log10(moves.epsilon).round(6))
    knobs, same = _knobs(moves, ["temperature", "skew", "rank", "exponent"])
    base = alt.Chart(moves).encode(
        x=alt.X("epsilon:Q", title="ε, size of the change of the head").scale(type="log").axis(labelOverlap="greedy"),
        y=_y("change:Q", "change of the loss, nats"),
        color=alt.Color("quantity:N", title=None).legend(columns=2),
    )
    curves = base.transform_filter(same(["temperature", "skew", "rank"])).mark_line(point=True)
    label = base.transform_filter(same(["temperature", "skew", "rank", "exponent"])).mark_text(
        align="left", dx=6, dy=10
    )
    return alt.layer(
        curves,
        label.encode(text=alt.Text("change:Q", format=".1e")),
        description="Change of the loss against the size of the change of the head, both on log scales.",
    ).add_params(*knobs)


def gap_and_bounds(gaps: pd.DataFrame) -> alt.Chart:
    """Gap of the best head and its bounds against the root of the plain tail, with sliders; a result of `gaps`."""
    long = gaps.melt(["temperature", "skew", "rank", "root"], list(GAP), "curve").replace({"curve": GAP})
    long["source"] = long.curve.map(lambda curve: charts.SOURCES["Theorem" in curve])
    knobs, same = _knobs(long, ["temperature", "skew"])
    x = alt.X("root:Q", title="root of the tail of squared singular values of W*")
    lines = alt.Chart(long, description="Loss gap and its bounds against the tail of singular values, log scales.")
    return (
        lines.mark_line(point=True)
        .encode(
            x=x.scale(type="log").axis(labelOverlap="greedy"),
            y=_y("value:Q", "nats"),
            color=alt.Color("curve:N", title=None, sort=list(GAP.values())).legend(columns=2),
            strokeDash=charts.SOURCE_DASH,
            tooltip=["curve", "rank", alt.Tooltip("value:Q", format=".3g")],
        )
        .transform_filter(same(["temperature", "skew"]))
        .add_params(*knobs)
    )


def held_out(means: pd.DataFrame) -> alt.LayerChart:
    """Divergence of each cut on the contexts that set it and on other documents, with intervals over windows.

    Columns: sample, truncation, rank, divergence, divergence_low, divergence_high.
    """
    drawn = means.assign(
        divergence_low=means.divergence_low.clip(lower=means.divergence / 10)
    )  # the axis is a logarithm
    base = alt.Chart(drawn).encode(
        x=alt.X("rank:Q", title="rank r of the head"), color=alt.Color("truncation:N", title=None)
    )
    lines = base.mark_line(point=True).encode(
        y=_y("divergence:Q", NATS),
        strokeDash=SAMPLE_DASH,
        tooltip=["sample", "truncation", "rank", alt.Tooltip("divergence:Q", format=".3g")],
    )
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("divergence_low:Q", title=NATS), y2="divergence_high:Q")
    text = "Divergence of truncated heads against the rank, in sample and held out, with intervals over windows"
    return alt.layer(bars, lines, description=text)


def real_bounds(means: pd.DataFrame) -> alt.Chart:
    """KL divergence on held-out states and what bounds it, by rank, with a choice of the cut."""
    return _of_cut(
        means, _curves(means, BOUNDS, "KL divergence of a truncated head and bounds on it by rank, log scale")
    )


def predictions(means: pd.DataFrame) -> alt.Chart:
    """The bound, what a uniform softmax would pay, the same aligned with frequencies, and the measured divergence."""
    text = "Predicted and measured divergence of a truncated head by rank, by sample, log scale"
    return _of_cut(means, _curves(means, PREDICTIONS, text, by_sample=True))


def sandwich(means: pd.DataFrame) -> alt.Chart:
    """The two tails in the frequency metric, the bounds that they lead to, and the measured divergence."""
    return _curves(
        means, SANDWICH, "Divergence of a truncated head between two tails by rank, by sample", by_sample=True
    )


def downhill(means: pd.DataFrame) -> alt.Chart:
    """What bounds the rise of the true loss without an optimum, and the rise, by rank and sample."""
    names = {"free": "bound without an optimum", "rise": "measured rise of the loss"}
    text = "Rise of the loss of a head of low rank and what bounds it, by rank, by sample"
    decades = [sign * 10.0**power for power in range(-2, 6) for sign in (-1, 1)]
    y = alt.Y("value:Q", title=NATS).scale(type="symlog", constant=0.01, nice=False)
    y = y.axis(values=[0, *decades], format="~g")
    return _curves(means, names, text, by_sample=True).encode(y=y)


def _curves(means, names, description, by_sample=False):
    """Named columns against the rank; in sample and held out side by side in one chart where asked."""
    keys = ["sample", "truncation", "rank"]
    long = means.melt(keys, list(names), "curve").replace({"curve": names})
    dash = {"strokeDash": SAMPLE_DASH} if by_sample else {}
    return (
        alt.Chart(long, description=description)
        .mark_line(point=True)
        .encode(
            x=alt.X("rank:Q", title="rank r of the head").axis(labelOverlap="greedy", labelSeparation=8),
            y=_y("value:Q", NATS),
            color=alt.Color("curve:N", title=None, sort=list(names.values())).legend(columns=2 if by_sample else 3),
            tooltip=[*keys, "curve", alt.Tooltip("value:Q", format=".3g")],
            **dash,
        )
    )


def _of_cut(means, chart):
    """The chart for one of the cuts, to be chosen."""
    cuts = list(means.truncation.unique())
    cut = alt.param(name="cut", value=cuts[-1], bind=alt.binding_select(options=cuts, name="cut "))
    return chart.transform_filter("datum.truncation == cut").add_params(cut)


def _y(field, title):
    return alt.Y(field, title=title).scale(type="log").axis(format=".0e")


def _knobs(frame, names):
    """A slider for each column, and the filter that keeps the rows of chosen sliders."""
    knobs = []
    for name in names:
        grid = sorted(frame[name].unique())
        step = grid[1] - grid[0] if len(grid) > 1 else 1
        bind = alt.binding_range(name=f"{name} ", min=grid[0], max=grid[-1], step=step)
        knobs.append(alt.param(name=name, value=grid[len(grid) // 2], bind=bind))
    return knobs, lambda chosen: " && ".join(f"abs(datum.{name} - {name}) < 1e-3" for name in chosen)
