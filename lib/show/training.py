"""Charts along training whose panels share a choice: a model picked in the legend, a step with a click in the first."""

import altair as alt
import pandas as pd

from lib.show import charts

ENTROPY = "singular entropy, nats"
STEP = alt.X("step:Q", title="training step").scale(type="symlog", constant=8, domainMin=0)


def perplexity_and_anisotropy(frame: pd.DataFrame, description: str) -> alt.VConcatChart:
    """Figure 3: both along training, then one against the other, coloured by step.

    Columns: model, step, perplexity, anisotropy (means over seeds), low, high (of the anisotropy over seeds).
    """
    model, step, seen = _choices()
    base = alt.Chart(frame).encode(color=_model(frame), opacity=seen)
    along = [
        _curve(base, alt.Y("perplexity:Q", title="perplexity").scale(type="log"), step, model),
        base.mark_area(opacity=0.2).encode(STEP, alt.Y("low:Q", title="last-layer anisotropy"), alt.Y2("high:Q"))
        + _curve(base, alt.Y("anisotropy:Q", title="last-layer anisotropy"), step),
    ]
    path = alt.Chart(frame).encode(
        alt.X("anisotropy:Q", title="last-layer anisotropy"),
        alt.Y("perplexity:Q", title="perplexity").scale(type="log"),
        opacity=seen,
    )
    order = path.mark_line(strokeWidth=1).encode(color=_model(frame), order="step:Q")
    dots = path.mark_point(filled=True, opacity=1).encode(
        fill=alt.Fill("step:Q", title="step").scale(type="symlog", constant=8, scheme="viridis"),
        size=_size(step, 50),
        tooltip=["model", "step", alt.Tooltip("perplexity", format=".4g"), alt.Tooltip("anisotropy", format=".3f")],
    )
    panels = [panel.properties(width=480, height=170) for panel in (*along, order + dots)]
    return alt.vconcat(*panels, description=description).resolve_scale(fill="independent")


def entropy_and_spectrum(entropies: pd.DataFrame, spectra: pd.DataFrame, description: str) -> alt.VConcatChart:
    """Figures 5 and 4: singular entropy along training in each view of the head, and the spectrum at the chosen step.

    ``entropies``: view, model, step, entropy (mean over seeds), low, high. ``spectra``: model, step, rank, ratio (to
    the largest value). The step chosen at first is the last that all models have.
    """
    common = set.intersection(*(set(part) for _, part in spectra.groupby("model")["step"]))
    model, step, seen = _choices(max(common))
    panels = []
    for view, part in entropies.groupby("view", sort=False):
        base = alt.Chart(part, title=view).encode(color=_model(entropies), opacity=seen)
        band = base.mark_area(opacity=0.2).encode(STEP, alt.Y("low:Q", title=ENTROPY), alt.Y2("high:Q"))
        chosen = () if panels else (model,)
        curve = _curve(base, alt.Y("entropy:Q", title=ENTROPY), step, *chosen)
        panels.append((band + curve).properties(width=480, height=120))
    spectrum = (
        alt.Chart(spectra, title="spectrum at the chosen step")
        .transform_filter(step)
        .mark_line(point=True)
        .encode(
            alt.X("rank:Q", title="rank").scale(type="log"),
            alt.Y("ratio:Q", title="share of the largest value").scale(domain=[0, 1]),
            color=_model(entropies),
            opacity=seen,
            tooltip=["model", "step", "rank", alt.Tooltip("ratio", format=".3f")],
        )
        .properties(width=480, height=170)
    )
    return alt.vconcat(*panels, spectrum, description=description)


def _choices(first: int | None = None):
    """Selection of a model, of a step, and the opacity that shows the model."""
    model = alt.selection_point("model", fields=["model"], bind="legend")
    value = {} if first is None else {"value": [{"step": first}]}
    step = alt.selection_point("step", fields=["step"], on="click", clear="dblclick", **value)
    return model, step, alt.when(model).then(alt.value(1)).otherwise(alt.value(0.1))


def _model(frame: pd.DataFrame) -> alt.Color:
    return alt.Color("model:N", title=None, scale=charts.colours(frame["model"]))


def _size(step, small: int):
    return alt.when(step, empty=False).then(alt.value(140)).otherwise(alt.value(small))


def _curve(base: alt.Chart, y: alt.Y, step, model=None) -> alt.LayerChart:
    """Line through points that show the chosen step; with ``model``, the panel in which both are chosen."""
    points = base.mark_point(filled=True).encode(STEP, y, size=_size(step, 30), tooltip=["model", "step", y.shorthand])
    return base.mark_line().encode(STEP, y) + (points.add_params(step, model) if model is not None else points)
