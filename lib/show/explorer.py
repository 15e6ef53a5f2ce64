"""The explorer: charts that follow one choice of model, step, layer and view, and the controls in which it is made.

Each chart binds its parameters to the controls by their ids, so that all charts of the page follow them; the script
`assets/explorer.js` keeps the choice in the page's address. Without JavaScript the charts stand at the first choice.
"""

import html
import json
from dataclasses import dataclass

import altair as alt
import pandas as pd

from lib.show import charts
from lib.show.training import STEP as ALONG

STEP = ALONG.copy().axis(values=[0, 10, 100, 1000, 10_000, 100_000], labelExpr="format(datum.value, '~s')")
RANK = alt.X("rank:Q", title="rank").scale(type="log").axis(values=[2**power for power in range(0, 13, 2)])
PALE = 0.35  # opacity of all models but the chosen one
HERE = {"layer": "datum.layer == toNumber(layer)", "view": "datum.view == view"}
OURS = "this book"


@dataclass(frozen=True)
class Choice:
    """What the page opens with, and the models that there are."""

    models: tuple[str, ...]
    model: str
    step: int
    layer: int
    view: str


def losses(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """Loss along training. Columns of this frame and of the others: model, source, step, value."""
    y = alt.Y("value:Q", title="loss, nats per token").scale(zero=False)
    return _finish(_along(frame, first, y), frame, first, "Loss along training")


def one_layer(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """Anisotropy of the chosen layer along training. Columns more: layer, stage (the layer in words)."""
    y = alt.Y("value:Q", title="anisotropy of the layer").scale(domain=[-0.1, 1])
    chart = _along(frame, first, y, "stage").transform_filter(HERE["layer"])
    return _finish(chart, frame, first, "Anisotropy of one layer along training", "layer")


def all_layers(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """Anisotropy by layer at the chosen step, the chosen layer in a ring. Columns more: layer, stage."""
    x = alt.X("layer:Q", title="layer (0: embeddings)").axis(tickMinStep=1, format="d")
    y = alt.Y("value:Q", title="anisotropy").scale(domain=[-0.1, 1])
    ring = _up_to_now(frame).transform_filter("datum.model == model").transform_filter(HERE["layer"])
    ring = ring.mark_point(size=200, strokeWidth=2, opacity=1).encode(x, y, _colour(first))
    chart = alt.layer(*_at_step(frame, first, x, y, "stage"), ring)
    return _finish(chart, frame, first, "Anisotropy by layer at one step", "layer")


def entropies(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """Singular entropy of the head along training. Columns more: view."""
    chart = _along(frame, first, alt.Y("value:Q", title="singular entropy, nats"))
    chart = chart.transform_filter(HERE["view"])
    return _finish(chart, frame, first, "Singular entropy of the head along training", "view")


def spectra(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """Singular values of the head at the chosen step, as shares of the largest. Columns more: view, rank."""
    y = alt.Y("value:Q", title="share of the largest value")
    y = y.scale(type="log", domain=[0.01, 1], clamp=True).axis(values=[0.01, 0.03, 0.1, 0.3, 1])
    chart = alt.layer(*_at_step(frame, first, RANK, y, "rank")).transform_filter(HERE["view"])
    return _finish(chart, frame, first, "Singular values of the head at one step", "view")


def w_errors(frame: pd.DataFrame, first: Choice) -> alt.LayerChart:
    """W-error of the head against the rank at the chosen step. Columns more: view, rank."""
    y = alt.Y("value:Q", title="W-error").scale(domain=[0, 1])
    chart = alt.layer(*_at_step(frame, first, RANK, y, "rank")).transform_filter(HERE["view"])
    return _finish(chart, frame, first, "W-error of the head by rank at one step", "view")


@dataclass(frozen=True)
class Controls:
    """The controls as HTML: a model, a checkpoint and a layer of it, and a view of its head."""

    markup: str

    def _repr_mimebundle_(self, **_):
        return {"text/html": self.markup, "text/plain": "The controls of this page, which work in the built site."}


def controls(first: Choice, anisotropy: pd.DataFrame, *frames: pd.DataFrame) -> Controls:
    """Controls for the frames of the page's charts; until the page's script runs, a sentence in their place."""
    every = pd.concat([anisotropy, *frames])
    steps = {model: sorted(part.unique().tolist()) for model, part in every.groupby("model").step}
    stages = anisotropy.drop_duplicates(["model", "layer"]).sort_values("layer")
    layers = {model: part[["layer", "stage"]].values.tolist() for model, part in stages.groupby("model")}
    known = {model: {"steps": steps[model], "layers": layers.get(model, [])} for model in first.models}
    ours = set(every.model[every.source == OURS])
    groups = {"this book's": ours, "others'": set(first.models) - ours}
    options = "".join(_group(name, [m for m in first.models if m in group], first) for name, group in groups.items())
    views = "".join(_option(view, first.view) for view in dict.fromkeys(every["view"].dropna()))
    start = json.dumps({"known": known, "step": first.step, "layer": first.layer}).replace("<", "\\u003c")
    return Controls(
        '<form class="explorer" aria-label="What all charts show" hidden>'
        f'<label>model <select id="explorer-model" name="model">{options}</select></label>'
        '<label>step <input type="range" name="place" min="0"><output name="at"></output></label>'
        '<label>layer <input type="range" name="depth" min="0"><output name="stage"></output></label>'
        f'<label>view of the head <select id="explorer-view" name="view">{views}</select></label>'
        f'<input type="hidden" id="explorer-step" name="step" value="{first.step}">'
        f'<input type="hidden" id="explorer-layer" name="layer" value="{first.layer}">'
        f'<script type="application/json">{start}</script></form>'
        f"<p>Without JavaScript the charts stand at {html.escape(first.model)}, step {first.step:,}; "
        "the links below each chart hold the data of all models and steps.</p>"
    )


def _group(name, models, first):
    options = "".join(_option(model, first.model) for model in models)
    return f'<optgroup label="{html.escape(name)}">{options}</optgroup>'


def _option(value, chosen):
    return f"<option{' selected' if value == chosen else ''}>{html.escape(value)}</option>"


def _along(frame, first, y, *more):
    """Curves along training, with a mark at the checkpoint of the chosen step."""
    look = [STEP, y, _colour(first), _dash(frame), alt.Detail("source:N")]
    tip = _tip("step", *more)
    base = alt.Chart(frame).encode(*look, tooltip=tip)
    others = base.transform_filter("datum.model != model").mark_line(strokeWidth=1, opacity=PALE)
    chosen = base.transform_filter("datum.model == model").mark_line(strokeWidth=2)
    now = _up_to_now(frame).transform_filter("datum.model == model").mark_point(filled=True, size=90, opacity=1)
    return alt.layer(others, chosen, now.encode(STEP, y, _colour(first), _shape(frame), tooltip=tip))


def _at_step(frame, first, x, y, *more):
    """Lines at the last checkpoint up to the chosen step: pale ones of all models, the chosen one's, and its points."""
    base = _up_to_now(frame).encode(x, y, _colour(first), alt.Detail("source:N"), tooltip=_tip("step", *more))
    chosen, others = (base.transform_filter(f"datum.model {sign} model") for sign in ("==", "!="))
    pale = others.mark_line(strokeWidth=1, opacity=PALE).encode(_dash(frame))
    points = chosen.mark_point(filled=True, size=40, opacity=1).encode(_shape(frame))
    return pale, chosen.mark_line(strokeWidth=2).encode(_dash(frame)), points


def _up_to_now(frame):
    """Rows of each model's last checkpoint up to the chosen step."""
    until = alt.Chart(frame).transform_filter("datum.step <= toNumber(step)")
    until = until.transform_joinaggregate(last="max(step)", groupby=["model", "source"])
    return until.transform_filter("datum.step == datum.last")


def _finish(chart, frame, first, text, turns=None):
    """The chart with its parameters, and with a title that says whose it is or that nothing is known."""
    known = json.dumps(sorted(frame.model.unique()))
    drawn = "model + ', step ' + format(toNumber(step), ',')"
    title = alt.expr(f"indexof({known}, model) < 0 ? 'not known of ' + model : {drawn}")
    for name in ["model", "step", *([turns] if turns else [])]:
        bind = alt.BindDirect(element=f"#explorer-{name}")
        chart = chart.add_params(alt.param(name, value=getattr(first, name), bind=bind))
    about = f"{text}, of the chosen model, {first.model} at step {first.step} at first, and pale of all others"
    return chart.properties(title=alt.TitleParams(title), height=200, description=about)


def _colour(first):
    return alt.Color("model:N", scale=charts.colours(first.models), legend=None)


def _by_source(channel, looks, frame):
    """Whose a curve is, told by its look: of each source that the frame has, the one in `looks`."""
    sources = [source for source in looks if source in set(frame.source)]
    scale = alt.Scale(domain=sources, range=[looks[source] for source in sources])
    return channel("source:N", title=None, scale=scale).legend(**charts.STROKES)


def _dash(frame):
    return _by_source(alt.StrokeDash, charts.DASHES, frame)


def _shape(frame):
    return _by_source(alt.Shape, charts.SHAPES, frame)


def _tip(*columns):
    return ["model", "source", *columns, alt.Tooltip("value:Q", format=".4g")]
