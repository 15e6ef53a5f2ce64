"""Charts of chapter 5.1 on n-grams: W-error curves beside the paper's Figure 7, and what they are made of."""

import altair as alt
import pandas as pd

from lib.show import charts

X = alt.X("rank:Q", title="dimensions d")
Y = alt.Y("w_error:Q", title="W-error")
DASH = charts.SOURCE_DASH.legend(**charts.STROKES)


def w_errors(curves: pd.DataFrame, corpora: list[str], panels: list[str]) -> alt.FacetChart:
    """Figure 7: W-error against dimensions, a panel for each kind of tokenizer.

    Columns: panel, corpus, source, rank, w_error; ``corpora`` and ``panels`` in the order in which they are shown.
    """
    text = "W-error against dimensions by corpus, one panel for each tokenizer; the paper's curves dashed"
    return (
        alt.Chart(curves, width=250, height=240)
        .mark_line()
        .encode(
            X,
            Y,
            DASH,
            alt.Color("corpus:N", title=None, sort=corpora),
            tooltip=["corpus", "source", "rank", alt.Tooltip("w_error:Q", format=".3f")],
        )
        .facet(column=alt.Column("panel:N", title=None, sort=panels), description=text)
    )


def by_sample(curves: pd.DataFrame, samples: list[str]) -> alt.LayerChart:
    """W-error by size of the sample, token counts alone as dots, the paper's curve dashed.

    Columns: sample, source, rank, w_error, null (absent for the paper); ``samples`` in the order of the legend.
    """
    base = alt.Chart(curves).encode(
        X,
        alt.Color("sample:N", title="contexts", sort=samples).legend(columns=5),
        tooltip=["sample", "rank", alt.Tooltip("w_error:Q", format=".4f"), alt.Tooltip("null:Q", format=".4f")],
    )
    dots = base.transform_filter("isValid(datum.null)").mark_circle(size=28).encode(y="null:Q")
    text = "W-error against dimensions by size of the sample, token counts as dots, one curve of the paper dashed"
    return alt.layer(base.mark_line().encode(Y, DASH), dots, description=text)


def squares(values: pd.DataFrame) -> alt.Chart:
    """Squared singular values between neighbouring ranks, from the slopes of W-error curves.

    Columns: series, source, rank, square.
    """
    text = "Squared singular values against rank, log scale, from the slopes of the paper's six curves and ours"
    return (
        alt.Chart(values, description=text)
        .mark_line(point=True)
        .encode(
            alt.X("rank:Q", title="dimension"),
            alt.Y("square:Q", title="mean σ² between ranks").scale(type="log").axis(values=[0.1, 1, 2, 3, 5, 10]),
            DASH,
            alt.Color("series:N", title=None).legend(columns=3),
            tooltip=["series", "rank", alt.Tooltip("square:Q", format=".2f")],
        )
    )


def kinds(curves: pd.DataFrame, order: list[str]) -> alt.Chart:
    """W-error of several matrices made of the same counts, one to be picked. Columns: kind, rank, w_error."""
    picked = alt.selection_point(fields=["kind"], bind="legend")
    return (
        alt.Chart(curves, description="W-error against dimensions of several matrices made of the same counts")
        .mark_line()
        .encode(
            X,
            Y,
            alt.Color("kind:N", title=None, sort=order),
            opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.15)),
            tooltip=["kind", "rank", alt.Tooltip("w_error:Q", format=".3f")],
        )
        .add_params(picked)
    )


def growth(fitted: pd.DataFrame, measured: pd.DataFrame, named: dict[str, float]) -> alt.LayerChart:
    """Dimension at W-error 0.1 against the number of contexts: fitted lines, token counts as dots, named sizes.

    ``fitted``: series, contexts, dimension. ``measured``: series, contexts, data, null. ``named``: tokens of corpora.
    """
    color = alt.Color("series:N", title=None, sort=list(measured.series.unique())).legend(columns=2)
    x = alt.X("contexts:Q", title="contexts C").scale(type="log").axis(format="~s", values=[1e3, 1e5, 1e7, 1e9, 1e11])
    y = alt.Y("dimension:Q", title="dimensions at W-error 0.1").scale(type="log")
    y = y.axis(values=[1e2, 3e2, 1e3, 3e3, 1e4, 3e4])
    sizes = alt.Chart(pd.DataFrame({"contexts": named.values(), "name": named.keys()})).encode(x)
    lines = alt.Chart(fitted).mark_line().encode(x, y, color)
    dots = alt.Chart(measured).mark_circle(size=45)
    return alt.layer(
        lines,
        dots.encode(x, alt.Y("null:Q"), color, tooltip=["series", "contexts", "data", "null"]),
        sizes.mark_rule(strokeDash=[2, 4], opacity=0.6).encode(tooltip=["name"]),
        sizes.mark_text(align="left", dx=3).encode(y=alt.value(8), text="name"),
        description="Dimension at W-error 0.1 against the number of contexts, both log: fitted lines, measured dots",
    )
