"""Charts of chapter 7b: losses against width at a fixed budget, and what a width leaves for the layers."""

import math

import altair as alt
import pandas as pd

from lib.show import charts

TICKS = [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, *(2**power for power in range(10, 15))]
WIDTH = alt.X("width:Q", title="width d").scale(type="log", base=2, nice=False, padding=12).axis(values=TICKS)
LOSS = alt.Y("loss:Q", title="loss, nats per token").scale(zero=False)
SHARES = {"share": "embedding and head, of the parameters", "flops_share": "head, of the operations"}
DEEPEST = 100  # layers that a plan may have


def profiles(points: pd.DataFrame, lines: pd.DataFrame) -> alt.VConcatChart:
    """Losses less the lowest of their budget against width, a panel below the other for each kind of budget.

    points: fixed (words, the panel), budget, width, above, low, high (nats); lines, the fits: fixed, budget, width,
    above.
    """
    panels = []
    for fixed in dict.fromkeys(points.fixed):
        part, fitted = points[points.fixed == fixed], lines[lines.fixed == fixed]
        colour = alt.Color("budget:N", title=None, sort=list(dict.fromkeys(part.budget)))
        colour = colour.legend(columns=1, labelLimit=400, symbolOpacity=1, orient="bottom")
        y = alt.Y("above:Q", title="nats above the lowest mean").scale(zero=False)
        told = ["budget", "width", alt.Tooltip("above:Q", format=".3f")]
        dots = alt.Chart(part).mark_point(filled=True, size=50).encode(WIDTH, y, colour, tooltip=told)
        bars = alt.Chart(part).mark_rule(opacity=0.5).encode(WIDTH, alt.Y("low:Q"), alt.Y2("high:Q"), colour)
        curve = alt.Chart(fitted).mark_line(opacity=0.7).encode(WIDTH, y, colour)
        panels.append((bars + curve + dots).properties(width=480, height=170, title=f"equal {fixed}"))
    text = "Loss above the lowest of each budget against width, with intervals over seeds and fitted parabolas"
    return alt.vconcat(*panels, description=text).resolve_scale(color="independent")


def chosen(points: pd.DataFrame) -> alt.VConcatChart:
    """Loss, and the head's shares, against width at the vocabulary, budget and tying that the reader chooses.

    points: vocabulary, tied (tied, untied), budget (words), width, layers, tokens, loss, low, high, share, flops_share.
    """
    picks, first = {"vocabulary": "V ", "tied": "head ", "budget": "budget "}, points.iloc[0]
    knobs = []
    for name, word in picks.items():
        options = list(dict.fromkeys(points[name].astype(str)))
        bind = alt.binding_select(options=options, name=word)
        knobs.append(alt.param(f"chosen_{name}", value=str(first[name]), bind=bind))
    frame = points.assign(vocabulary=points.vocabulary.astype(str))
    wanted = " && ".join(f"datum.{name} == chosen_{name}" for name in picks)
    base = alt.Chart(frame).transform_filter(wanted)
    told = ["width", "layers", "tokens", *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("loss", "low", "high"))]
    bars = base.mark_rule().encode(WIDTH, alt.Y("low:Q"), alt.Y2("high:Q"))
    dots = base.mark_line(point=alt.OverlayMarkDef(size=60)).encode(WIDTH, LOSS, tooltip=told)
    missing = (
        alt.Chart(frame)
        .transform_calculate(fits=f"{wanted} ? 1 : 0")
        .transform_aggregate(found="sum(fits)")
        .transform_filter("datum.found == 0")
        .mark_text(text="no such runs: choose another budget, V or head")
        .encode(alt.XValue(220), alt.YValue(95))
    )
    first, second = SHARES.values()
    of = f"datum.of == 'share' ? '{first}' : '{second}'"
    names = base.transform_fold(list(SHARES), ["of", "part"]).transform_calculate(of=of)
    y = alt.Y("part:Q", title="share").scale(domain=[0, 1]).axis(format=".0%")
    told = ["width", "of:N", alt.Tooltip("part:Q", format=".0%")]
    shares = names.mark_line(point=True).encode(WIDTH, y, alt.Color("of:N", title=None), tooltip=told)
    panels = (bars + dots + missing).properties(width=440, height=190), shares.properties(width=440, height=120)
    text = "Loss and the head's shares against width, at a vocabulary, a budget and a tying to be chosen"
    return alt.vconcat(*panels, description=text).add_params(*knobs).resolve_scale(x="shared")


def planner(vocabulary: int, parameters: float) -> alt.VConcatChart:
    """What a budget of parameters leaves for layers at each width, and the share of embedding and head.

    vocabulary and parameters: where the sliders start. Computed in the reader's browser, by the formula of
    `lib.measure.budgets` without norms and biases.
    """
    slide = alt.binding_range(min=10, max=18, step=1, name="log2 V ")
    rows = alt.param("plan_rows", value=vocabulary.bit_length() - 1, bind=slide)
    slide = alt.binding_range(min=5, max=10, step=0.25, name="log10 parameters ")
    budget = alt.param("plan_budget", value=round(4 * math.log10(parameters)) / 4, bind=slide)
    tied = alt.param("plan_tied", value="tied", bind=alt.binding_select(options=["tied", "untied"], name="head "))
    base = (
        alt.Chart(alt.sequence(start=3, stop=14, step=0.0625, as_="power"))
        .transform_calculate(width="pow(2, datum.power)", all="pow(10, plan_budget)")
        .transform_calculate(ends="(plan_tied == 'tied' ? 1 : 2) * pow(2, plan_rows) * datum.width")
        .transform_calculate(layers="(datum.all - datum.ends) / (12 * datum.width * datum.width)")
        .transform_calculate(share="datum.ends / datum.all")
        .transform_filter(f"datum.layers >= 1 && datum.layers <= {DEEPEST}")
    )
    told = [alt.Tooltip("width:Q", format=",.0f"), alt.Tooltip("layers:Q", format=",.1f")]
    told.append(alt.Tooltip("share:Q", format=".0%"))
    y = alt.Y("share:Q", title="embedding and head").scale(domain=[0, 1]).axis(format=".0%")
    share = base.mark_line(point=True).encode(WIDTH, y, tooltip=told)
    y = alt.Y("layers:Q", title="layers left").scale(type="log")
    left = base.mark_line(point=True, color=charts.PALETTE[1]).encode(WIDTH, y, tooltip=told)
    panels = share.properties(width=440, height=160), left.properties(width=440, height=120)
    text = "Share of embedding and head, and layers that are left, against width, at a budget of parameters to be set"
    return alt.vconcat(*panels, description=text).add_params(rows, budget, tied).resolve_scale(x="shared")


def public(frame: pd.DataFrame) -> alt.LayerChart:
    """Pythia's losses against width, the head's share beside each. Columns: model, width, loss, low, high, share."""
    known = frame.dropna(subset="loss").assign(head=[f"{share:.0%}" for share in frame.dropna(subset="loss").share])
    told = ["model", "width", "runs", alt.Tooltip("loss:Q", format=".2f"), "head"]
    base = alt.Chart(known).encode(WIDTH)
    bars = base.mark_rule().encode(alt.Y("low:Q"), alt.Y2("high:Q"))
    dots = base.mark_point(filled=True, size=60).encode(LOSS, tooltip=told)
    words = base.mark_text(align="left", dx=8, dy=-8).encode(LOSS, alt.Text("head:N"))
    return alt.layer(bars, dots, words, description="Last training loss of Pythia's narrow models against width")
