"""Charts of chapter 5.1 on heads of low rank: ours beside the paper's Figures 6, 8 and 9, and along training."""

import altair as alt
import pandas as pd

from lib.show import charts

MODELS = {"pythia-410m": "Pythia-410m", "pythia-1b": "Pythia-1b", "llama-7b": "Llama-7b"}
CUT = ["SVD", "centred SVD", "whitened", "weighted"]
STARTS = {"trained": "from the real head", "scaled": "from a random draw"}
ARMS = [*CUT, *STARTS.values(), *MODELS.values()]
COLOURS = dict(zip(ARMS, [*charts.PALETTE[:6], *charts.colours(MODELS.values()).range], strict=True))
RANKS = [2**power for power in range(4, 13)]
DASH = charts.SOURCE_DASH.legend(**charts.STROKES)
NATS = "nats per token"


def against_rank(heads: pd.DataFrame, column: str, title: str, untouched: float) -> alt.LayerChart:
    """Figure 6: loss or accuracy of heads against their rank; the line is the untouched head.

    Columns: arm, source, rank and ``column``.
    """
    y = alt.Y(f"{column}:Q", title=title).scale(zero=False)
    line = alt.Chart(pd.DataFrame({column: [untouched]})).mark_rule(opacity=0.5).encode(y=f"{column}:Q")
    text = f"{column} of heads against their rank: our arms, and the paper's three models dashed"
    return alt.layer(_by_rank(heads, y, f"{column}:Q"), line, description=text)


def costs(heads: pd.DataFrame, threshold: int) -> alt.LayerChart:
    """Cost over the full head against rank, both on log scales, with a line at the paper's threshold.

    Columns: arm, source, rank, cost (nats, above 0).
    """
    y = alt.Y("cost:Q", title=f"cost, {NATS}").scale(type="log").axis(values=[0.01, 0.03, 0.1, 0.3, 1, 3])
    line = alt.Chart(pd.DataFrame({"rank": [threshold]})).mark_rule(strokeDash=[2, 2], opacity=0.6).encode(x="rank:Q")
    text = "Cost of a low rank over the full head, ours and the paper's, on logarithmic scales"
    return alt.layer(_by_rank(heads, y, "cost:Q"), line, description=text)


def learning_rates(rates: pd.DataFrame) -> alt.Chart:
    """Figure 9: the learning rate chosen at each rank. Columns: arm, source, rank, rate."""
    y = alt.Y("rate:Q", title="peak learning rate").scale(type="log")
    y = y.axis(values=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2], format="~g")
    return _by_rank(rates, y, "rate:Q").properties(
        description="Chosen learning rate against rank, ours, and the paper's dashed"
    )


def w_errors(heads: pd.DataFrame, highest: int) -> alt.Chart:
    """Figure 8: excess loss against the W-error, a panel for each way of taking it.

    Columns: arm, source, rank, of (raw, centred or whitened), w_error, excess (per cent; cut at ``highest``).
    """
    return (
        alt.Chart(heads, description="Excess loss against three kinds of W-error, by arm, the paper's points dashed")
        .mark_line(point=True)
        .encode(
            alt.X("w_error:Q", title="W-error"),
            alt.Y("excess:Q", title="excess loss, per cent").scale(domain=[0, highest], clamp=True),
            _colour(heads),
            DASH,
            alt.Facet("of:N", title=None, columns=3, sort=["raw", "centred", "whitened"]),
            tooltip=[
                "source",
                "arm",
                "rank",
                alt.Tooltip("w_error", format=".3f"),
                alt.Tooltip("excess", format=".1f"),
            ],
        )
        .properties(width=165, height=220)
    )


def along_training(curves: pd.DataFrame, lengths: pd.DataFrame, further: pd.DataFrame) -> alt.HConcatChart:
    """Loss within the longest run, and at the ends of runs of several lengths with what longer ones would reach.

    ``curves``: arm, rank, seed, step, loss (of the windows that judge). ``lengths``: arm, rank, updates, loss (mean
    over seeds, validation). ``further``: arm, rank, updates, low, high.
    """
    ranks = [str(rank) for rank in sorted(lengths["rank"].unique())]
    rank = alt.Color("rank:N", title="rank", sort=ranks).legend(symbolType="stroke", symbolSize=300, symbolOpacity=1)
    arm = alt.StrokeDash("arm:N", title=None, sort=list(STARTS.values())).legend(columns=1, **charts.STROKES)
    y = alt.Y("loss:Q", title=NATS).scale(zero=False)
    within = (
        alt.Chart(curves, title="within the longest run")
        .mark_line()
        .encode(
            alt.X("step:Q", title="update"),
            y,
            rank,
            arm,
            detail="seed:N",
            tooltip=["arm", "rank", "seed", "step", "loss"],
        )
    )
    ticks = sorted({*lengths.updates, further.updates.max()})
    x = alt.X("updates:Q", title="updates of the run").scale(type="log", nice=False).axis(values=ticks)
    ends = alt.Chart(lengths, title="at the end of runs of each length").mark_line(point=True)
    bands = alt.Chart(further).mark_area(opacity=0.4)
    after = alt.layer(
        bands.encode(x, alt.Y("low:Q", title=NATS), alt.Y2("high:Q"), rank),
        ends.encode(x, y, rank, arm, tooltip=["arm", "rank", "updates", alt.Tooltip("loss", format=".3f")]),
    )
    text = "Loss of heads from a random draw and from the real head along training, and at the end of runs by length"
    panels = [panel.properties(width=250, height=260) for panel in (within, after)]
    return alt.hconcat(*panels, description=text).resolve_scale(y="shared")


def _by_rank(frame, y, column):
    """Lines of all arms against the rank; the paper's dashed."""
    return (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            alt.X("rank:Q").scale(type="log", nice=False).axis(values=RANKS),
            y,
            _colour(frame),
            DASH,
            tooltip=["source", "arm", "rank", alt.Tooltip(column, format=".4g")],
        )
    )


def _colour(frame):
    """Each arm's own colour, of those that are there."""
    arms = [arm for arm in ARMS if arm in set(frame.arm)]
    return alt.Color("arm:N", title=None, sort=arms).scale(domain=arms, range=[COLOURS[arm] for arm in arms])
