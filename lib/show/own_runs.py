"""The page on loss curves of the reader's own: what each does, in sentences, two charts and a table."""

import altair as alt
import pandas as pd

from lib.show import charts
from lib.show.report import Block, Bullets, Chart, Heading, Paragraph, Table

HIGHEST = 8  # per cent above the lowest; what is higher is cut, as in chapter 3
NEAR = "Near the lowest loss: the points, pale, and the means over neighbours that the detector compares."
WHOLE = "From the first step to the last, on a logarithmic axis."
MARKS = {"lowest": "best", "last": "final"}
VERDICTS = {
    "saturation": "saturates",
    "divergence": "diverges",
    "spike": "does not saturate: it has a spike",
    "warm-up bump": "does not saturate: it has a bump of the warm-up",
    "still falling": "does not saturate: it is still falling",
    "noise": "does not saturate",
}


def blocks(numbers: dict, curves: pd.DataFrame) -> list[Block]:
    """The page of `study.own_runs.judge`'s numbers and `study.own_runs.drawn`'s curves."""
    page = [Heading("Does it saturate?"), Bullets(verdict(numbers))]
    page += [Heading("The curves"), Chart(near(curves, numbers), NEAR), Chart(whole(curves), WHOLE)]
    page += [Heading("The numbers"), Table(table(numbers)), Paragraph(_criterion(numbers["criterion"]))]
    return [*page, Heading("How the files were read"), Bullets(readings(numbers))]


def verdict(numbers: dict) -> list[str]:
    """Sentences, each with the number behind it: on each run, and on all as seeds of one setting."""
    said = [sentence for run in numbers["runs"] for sentence in _on_run(run, numbers["criterion"])]
    return _on_seeds(numbers["seeds"], numbers["criterion"]) + said if numbers["seeds"] else said


def readings(numbers: dict) -> list[str]:
    """How each file was read, and what was done with which of its rows."""
    said = []
    for run in numbers["runs"]:
        read = run["read"]
        about = f"{run['name']}: {read['points']:,} points of {read['column']!r} by {read['axis']!r}"
        if read["averaged"] > 1:
            about += f", judged by means of {read['averaged']:,} (without the extreme tenths)"
        said.append(" ".join([f"{about}.", *read["said"]]))
    return said


def table(numbers: dict) -> pd.DataFrame:
    """One row for each run, with headings in words; rises in per cent."""
    rows = []
    for run in numbers["runs"]:
        unit, onset = run["read"]["unit"], run["onset"] or {}
        rows.append(
            {
                "run": run["name"],
                "points": run["read"]["points"],
                "verdict": "open" if run["more"] else run["kind"],
                "rise %": 100 * run["rise"]["value"],
                "from %": 100 * run["rise"]["low"],
                "to %": 100 * run["rise"]["high"],
                f"from {unit}": onset.get("step"),
                "redrawn, saturated": run["redrawn_saturated"],
                f"lowest at {unit}": run["best_step"],
                "lowest loss (nats)": run["best_loss"],
            }
        )
    return pd.DataFrame(rows)


def near(curves: pd.DataFrame, numbers: dict) -> alt.LayerChart:
    """Loss above the lowest mean of each run, in per cent, with the lowest and the last point that were judged.

    curves: run, unit, series (points, means), step, loss, above. Values are cut at 8 % and at what noise gives below.
    """
    lowest = curves[curves.series == "means"].groupby("run").loss.min()
    ends = pd.DataFrame(
        {
            "run": run["name"],
            "mark": mark,
            "step": run[f"{key}_step"],
            "loss": run[f"{key}_loss"],
            "above": 100 * (run[f"{key}_loss"] / lowest[run["name"]] - 1),
        }
        for run in numbers["runs"]
        for mark, key in MARKS.items()
    )
    least = max(min(curves.above.min(), ends.above.min()), -HIGHEST)
    y = alt.Y("above:Q", title="above lowest mean, per cent").scale(domain=[least - 0.5, HIGHEST])
    marks = alt.Chart(ends).mark_point(filled=True, size=70, opacity=1)
    shape = alt.Shape("mark:N", title=None).scale(domain=list(MARKS), range=["triangle-up", "square"])
    tip = ["run", "mark", "step", alt.Tooltip("loss", format=".4f")]
    text = "Loss above its lowest mean, in per cent, along each run; the lowest and the last point are marked"
    lines = _lines(curves, y)
    return alt.layer(*lines, marks.encode(_x(curves), y, shape, _colour(curves), tooltip=tip), description=text)


def whole(curves: pd.DataFrame) -> alt.LayerChart:
    """Loss of each run from its first step to its last, steps on a logarithmic axis."""
    curves = curves[curves.step > 0]
    y = alt.Y("loss:Q", title="loss, nats").scale(zero=False)
    return alt.layer(*_lines(curves, y, scale="log"), description="Loss of each run, over steps in logarithms")


def _lines(curves, y, scale="linear"):
    """The points of each run, pale, and the means over them."""
    x, colour = _x(curves, scale), _colour(curves)
    tip = ["run", "step", alt.Tooltip("loss", format=".4f")]
    for series, look in {"points": {"opacity": 0.3, "strokeWidth": 1}, "means": {"strokeWidth": 2.5}}.items():
        line = alt.Chart(curves[curves.series == series]).mark_line(clip=True, **look)
        yield line.encode(x, y, colour, tooltip=tip)


def _x(curves, scale="linear"):
    return (
        alt.X("step:Q", title=curves.unit.iloc[0])
        .scale(type=scale, nice=False, padding=8)
        .axis(format="~s", tickCount=6)
    )


def _colour(curves):
    runs = list(curves.run.unique())
    legend = alt.Legend(symbolOpacity=1) if len(runs) > 1 else None
    return alt.Color("run:N", title=None, legend=legend).scale(domain=runs, range=charts.PALETTE)


def _on_run(run, criterion):
    name, unit, failed = run["name"], run["read"]["unit"].removesuffix("s"), run["read"]["failed"]
    said = []
    if failed is not None:
        said.append(f"{name} has no finite loss from {unit} {_steps(failed)} on: the rest is said of what was before.")
    said += [f"{name} {'is undecided' if run['more'] else VERDICTS[run['kind']]}: {run['reason']}."]
    if run["onset"]:
        onset = run["onset"]
        between = f"between {_steps(onset['low'])} and {_steps(onset['high'])}"
        least, since = f"{criterion['smallest_rise']:.1%}", _steps(onset["step"])
        since = f"{since} tokens" if unit == "token" else f"{unit} {since}"
        said.append(f"{name} stays more than {least} above its floor from {since} on ({between}).")
    elif run["saturated"]:
        said.append(f"{name}: single stretches are too noisy to say since when.")
    if run["redrawn_saturated"] is not None:
        share = f"{run['redrawn_saturated']:.0%} of {criterion['draws']}"
        said.append(f"{name}: drawn anew around its trend with noise of its size, {share} curves saturate.")
    if run["more"]:
        more = run["more"]
        said.append(
            f"{name}: {more['points']:,} points more, {more['factor']:.1f} times as many over the same stretch, "
            f"would tell a rise of {more['rise']:.1%} from none with a chance of {criterion['power']:.0%}."
        )
    return said


def _on_seeds(seeds, criterion):
    if not seeds["calm"]:
        return [f"All {seeds['runs']} runs failed for a while, so that together they say nothing of a rise."]
    counted = f"{seeds['saturated']} of {seeds['runs']} runs saturate"
    share = f"{seeds['share_low']:.0%} to {seeds['share_high']:.0%} of such runs would"
    mean = f"{seeds['rise']:.2%} (between {seeds['rise_low']:.2%} and {seeds['rise_high']:.2%})"
    said = [f"{counted}: {share}, at {criterion['level']:.0%}.", f"The mean rise over runs is {mean}."]
    if seeds["seeds"] is None:
        return [
            *said,
            f"It is not above the {criterion['smallest_rise']:.1%} that count, so no number of runs shows it.",
        ]
    more = int(seeds["seeds"]) - seeds["runs"]
    settled = "as many as there are suffice" if more <= 0 else f"{more} runs more are needed"
    return [*said, f"To set it off from {criterion['smallest_rise']:.1%} by two standard errors, {settled}."]


def _criterion(criterion):
    return (
        f"A run saturates if its loss ends at least {criterion['smallest_rise']:.1%} above an earlier mean, by more "
        f"than {criterion['deviations']} standard errors, has stayed there over its last tenth, and was nowhere more "
        f"than {criterion['diverged']:.0%} above its best. Intervals of a rise reach as many standard errors to each "
        f"side, because the detector takes the pair of windows that shows it best. Fewer than "
        f"{criterion['fewest_points']} points near the best loss settle nothing. The further points are so many that "
        f"a rise of {criterion['told_rise']:.1%} between two windows would pass this with a chance of "
        f"{criterion['power']:.0%}, for noise falls as one over the root of their number."
    )


def _steps(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"
