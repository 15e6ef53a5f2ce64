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
