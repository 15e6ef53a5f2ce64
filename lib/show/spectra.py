"""Charts of chapter 4.2: spectra of heads, singular entropy along training, and what turns first."""

import altair as alt
import pandas as pd

from lib.show import charts
from lib.show.training import STEP

ENTROPY = alt.Y("entropy:Q", title="singular entropy, nats")


def spectrum(frame: pd.DataFrame, views: tuple[str, ...]) -> alt.Chart:
    """Singular values of a head and of matrices without language: matrix, view, rank, sigma, share."""
    lines = alt.Chart(frame, description="Singular values of a finished head and of null models, by view").mark_line()
    return lines.encode(
        alt.X("rank:Q").scale(type="log"),
        alt.Y("share:Q", title="share of the Frobenius norm").scale(type="log"),
        alt.Color("view:N", title=None, sort=list(views)),
        alt.StrokeDash("matrix:N", title=None, sort=["head", "shuffled", "Gaussian"]),
        tooltip=["matrix", "view", "rank", "sigma", "share"],
    )


def heat(frame: pd.DataFrame, models: list[str]) -> alt.ConcatChart:
    """Singular values as shares of the largest, by step and rank, a panel for each model: model, step, rank, ratio."""
    share = alt.Color("ratio:Q", title="share of the largest").scale(scheme="viridis", domain=[0, 1])
    tip = ["model", "step", "rank", alt.Tooltip("ratio", format=".3f")]
    cells = alt.Chart(frame, width=210, height=130).mark_rect()
    cells = cells.encode(alt.X("step:O"), alt.Y("rank:O"), share, tooltip=tip)
    panels = [cells.properties(data=frame[frame.model == model], title=model) for model in models]
    text = "Heat-map of singular values as shares of the largest, by step and rank, for each model"
    return alt.concat(*panels, columns=2, description=text)


def published(frame: pd.DataFrame) -> alt.Chart:
    """The paper's Figure 5: model, step, entropy, source."""
    text = "The paper's Figure 5: singular entropy of Pythia heads along training"
    lines = alt.Chart(frame, description=text).mark_line(strokeWidth=1.5)
    return lines.encode(
        alt.X("step:Q", title="training step"),
        ENTROPY.scale(type="log"),
        alt.Color("model:N", title=None, scale=charts.colours(frame.model)),
        charts.SOURCE_DASH,
        tooltip=["model", "step", "entropy"],
    )


def by_view(frame: pd.DataFrame, models: list[str], views: tuple[str, ...]) -> alt.FacetChart:
    """Singular entropy along training, a panel for each view of the head: model, view, step, entropy."""
    colour = alt.Color("model:N", title=None, scale=charts.colours(models))
    lines = alt.Chart(frame).mark_line(point=True).encode(STEP, ENTROPY, colour, tooltip=["model", "step", "entropy"])
    panels = lines.properties(width=480, height=130)
    facets = panels.facet(facet=alt.Facet("view:N", title=None, sort=list(views)), columns=1)
    return facets.properties(description="Singular entropy with and without output bias, by view")


def turning_steps(marks: pd.DataFrame) -> alt.VConcatChart:
    """When each quantity of each run is half-way up its rise: run, quantity, halfway, low, high, size, source."""
    base = alt.Chart().encode(
        alt.Y("run:N", title=None), alt.Color("quantity:N", title=None), alt.YOffset("quantity:N")
    )
    spans = base.mark_rule(strokeWidth=2).encode(alt.X("low:Q", title="training step"), alt.X2("high:Q"))
    tip = ["run", "quantity", "halfway", "low", "high", "size"]
    points = base.mark_point(filled=True, size=60).encode(alt.X("halfway:Q"), tooltip=tip)
    panels = [
        alt.layer(spans, points, data=marks[marks.source == source], title=source, width=400)
        for source in charts.SOURCES[::-1]
    ]
    text = "Turning steps of loss, anisotropy and singular entropy by run"
    return alt.vconcat(*panels, description=text)
