"""Pictures of the rivals in chapter 8: the knee of a known rank, and spectra that grow uneven again."""

import altair as alt
import pandas as pd

from lib.show import charts


def knees(frame: pd.DataFrame) -> alt.Chart:
    """Gap at the end against width less rank, a line for each language; frame: a grid of `known_rank.heads`."""
    last = frame[frame.step == frame.step.max()].groupby(["rank", "spread", "zipf", "width"], as_index=False).gap.mean()
    last = last.assign(beyond=last.width - last["rank"], language=last.spread.astype(str) + "/" + last.zipf.astype(str))
    last["gap"] = last.gap.clip(lower=1e-9)
    return (
        alt.Chart(last)
        .mark_line(point=True)
        .encode(
            alt.X("beyond:O", title="width - rank").axis(labelAngle=0),
            alt.Y("gap:Q", title="gap (nats)").scale(type="log").axis(format=".0e"),
            alt.Color("rank:N"),
            alt.StrokeDash("language:N", title="spread/Zipf").legend(**charts.STROKES),
        )
        .properties(description="Gap of float32 heads to the entropy of a language of known rank, against width.")
    )


def again(frame: pd.DataFrame) -> alt.Chart:
    """Singular entropy along training, a panel for each view; frame: `rivals.spectra_along` of several runs."""
    return (
        alt.Chart(frame[frame.step >= 64])
        .mark_line()
        .encode(
            alt.X("step:Q").scale(type="log"),
            alt.Y("entropy:Q", title="singular entropy (nats)"),
            alt.Color("run:N", scale=charts.colours(frame.run)),
            alt.Facet("view:N", columns=3, sort=["raw", "centred", "frequency out too"], title=None),
        )
        .properties(
            width=190, description="Singular entropy of the suite's narrow heads along training, in three views."
        )
    )
